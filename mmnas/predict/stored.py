"""Results as `--RUN=val|test` and `mmnas ensemble` leave them on the disk, read and checked."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import astuple, replace

from mmnas.arrays import read_array_header
from mmnas.config import Config
from mmnas.errors import ConfigError, DataError
from mmnas.files import Int64, PathLike, read_json
from mmnas.run.results import changed_files
from mmnas.schema import Finite, convert


class Row(Struct):
    """A row of any task's result: the sample that it is of, by the first seven keys, and what was predicted."""

    question_id: Int64 | str | None = None
    image_id: Int64 | str | None = None
    ref_id: Int64 | None = None
    sent_id: Int64 | str | None = None
    tokens: list[str] | None = None
    caption: Int64 | str | None = None
    text: str | None = None
    answer: str = ""
    box: tuple[Finite, Finite, Finite, Finite] = (0, 0, 0, 0)


class Provenance(Struct):
    """What must be in the `.meta.json` of a result, whatever else there is."""

    scored_on: str
    config: dict[str, Any]
    files: dict[str, str]
    summary: dict[str, Finite]
    seen_splits: list[str]


@dataclass(frozen=True)
class StoredResult:
    """One result: its rows, its provenance as it is in the file, and the settings that it was made with."""

    path: Path
    rows: list[Row]
    provenance: dict[str, Any]
    config: Config

    @property
    def split(self) -> str:
        """The split that was scored."""
        return self.provenance["scored_on"]

    def require_same_samples(self, rows: Iterable[Row], source: object) -> None:
        """Raise `DataError` unless the result has a row for the sample of each of these rows, in their order."""
        if [astuple(row)[:7] for row in self.rows] != [astuple(row)[:7] for row in rows]:
            raise DataError(f"{self.path} is of other samples than {source}: name results and data of one split")

    def array(self, name: str) -> np.ndarray:
        """Return an array of the result, mapped from its file. Raises `DataError` if there is none to be read."""
        path = self.path.with_suffix(f".{name}.npy")
        if path.name not in self.provenance["files"]:
            raise DataError(f"{self.path} has no {path.name} beside it: score again with --SCORES")
        try:
            with open(path, "rb") as file:
                shape, _, kind = read_array_header(file)
                return np.memmap(file, kind, "r", file.tell(), shape)
        except Exception as exception:  # numpy raises many kinds for damaged bytes
            raise DataError(f"{path} is damaged ({exception}): score again with --SCORES") from None


def read_result(path: PathLike, data_path: str | None = None) -> StoredResult:
    """Read the predictions at `path` and their provenance; `data_path` replaces where their data was.

    Raises `DataError` when something is missing, damaged or not what the provenance was written for.
    """
    path, source = Path(path), Path(path).with_suffix(".meta.json")
    rows = read_json(path, "result", kind=list[Row])
    provenance = read_json(source, "provenance of a result", kind=dict[str, Any])
    if changed := changed_files(path):
        raise DataError(f"{', '.join(changed)} changed after {source} was written: score again")
    try:
        config = Config.from_dict(convert(provenance, Provenance, error=ConfigError).config)
    except ConfigError as exception:
        raise DataError(f"{source}: {exception}") from None
    paths = replace(config.paths, data=data_path or config.paths.data)
    return StoredResult(path, rows, provenance, replace(config, paths=paths))
