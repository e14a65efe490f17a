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
from mmnas.files import Int64, PathLike, open_regular, read_json
from mmnas.genotype import Genotype
from mmnas.run.results import changed_files
from mmnas.schema import Finite, convert, shown
from mmnas.tasks import task_named


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
    genotype: dict[str, Any] | None = None


@dataclass(frozen=True)
class StoredResult:
    """One result: its rows, its provenance as it is in the file, and the settings that it was made with."""

    path: Path
    rows: list[Row]
    provenance: dict[str, Any]
    config: Config
    genotype: Genotype | None

    @property
    def split(self) -> str:
        """The split that was scored."""
        return self.provenance["scored_on"]

    def require_same_samples(self, rows: Iterable[Row], source: object) -> None:
        """Raise `DataError` unless the result has a row for the sample of each of these rows, in their order."""
        if [astuple(row)[:7] for row in self.rows] != [astuple(row)[:7] for row in rows]:
            raise DataError(f"{self.path} is of other samples than {source}: name results and data of one split")

    def array(self, name: str, kind: str, *sides: int | None) -> np.ndarray:
        """Return an array of the result, mapped from its file.

        Raises `DataError` if there is none to be read of this `kind` of NumPy's and these sides, None being any; or
        if none of the numbers of a row are finite, of two-dimensional ones any.
        """
        path = self.path.with_suffix(f".{name}.npy")
        if path.name not in self.provenance["files"]:
            raise DataError(f"{self.path} has no {path.name} beside it: score again with --SCORES")
        try:
            with open_regular(path) as file:
                shape, columns_first, dtype = read_array_header(file)
                fits = len(shape) == len(sides) and all(a in (None, b) for a, b in zip(sides, shape, strict=True))
                if dtype.kind != kind or not fits:
                    raise ValueError(f"it holds {dtype!s:.20} of shape {shown(shape)}")
                values = np.memmap(file, dtype, "r", file.tell(), shape, "F" if columns_first else "C")
            enough = np.any if len(shape) > 2 else np.all
            if kind == "f" and not all(enough(np.isfinite(row)) for row in values):
                raise ValueError("it holds NaN or infinite values")
            return values
        except Exception as exception:  # numpy raises many kinds for damaged bytes
            raise DataError(f"{path} is damaged ({exception}): score again with --SCORES") from None


def read_result(path: PathLike, data_path: str | None = None) -> StoredResult:
    """Read the predictions at `path` and their provenance; `data_path` replaces where their data was.

    Raises `DataError` when something is missing, damaged or not what the provenance was written for.
    """
    rows = read_json(path, "result", kind=list[Row])
    path = Path(path)
    source = path.with_suffix(".meta.json")  # not before: some paths have no name
    provenance = read_json(source, "provenance of a result", kind=dict[str, Any])
    if changed := changed_files(path):
        raise DataError(f"{', '.join(changed)} changed after {source} was written: score again")
    try:
        known = convert(provenance, Provenance)
        config = Config.from_dict(known.config)
        config = task_named(config.task).settle(config)
        genotype = None if known.genotype is None else Genotype.from_dict(known.genotype)
    except ConfigError as exception:
        raise DataError(f"{source}: {exception}") from None
    paths = replace(config.paths, data=data_path or config.paths.data)
    return StoredResult(path, rows, provenance, replace(config, paths=paths), genotype)
