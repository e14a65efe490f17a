"""RefCOCO, RefCOCO+ and RefCOCOg as they lie on the disk: referring expressions and the boxes they mean.

Yu et al., "Modeling Context in Referring Expressions", ECCV 2016 (the UNC splits), and Nagaraja et al.,
ECCV 2016 (the UMD splits). `instances.json` and `refs(<split-by>).p` are read as they are distributed.
What is read of a split is kept beside them as `<split>.json`, with the size and time of both originals,
and made again when these change. A `<split>.json` that is a plain list is the user's own and is taken
as it is. Boxes are x, y, width, height on the disk, and xyxy pixels (x + width, y + height) in memory.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmnas.data.pickles import read_plain_pickle
from mmnas.errors import ConfigError, DataError
from mmnas.files import PathLike, is_text, read_json, write_json
from mmnas.schema import INT_LIMIT, nearest, shown

log = logging.getLogger(__name__)

_UNC = ("unc", ("train", "val", "testA", "testB"))
_UMD = ("umd", ("train", "val", "test"))
_SPLITS = {"refcoco": _UNC, "refcoco+": _UNC, "refcocog": _UMD}
DATASETS = tuple(_SPLITS)


@dataclass(frozen=True, slots=True)
class Expression:
    """One phrase for one thing of one image; `bbox` is x, y, width, height in pixels."""

    image_id: int
    ref_id: int
    sent_id: int
    tokens: list[str]
    bbox: list[float]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels."""
        x, y, width, height = self.bbox
        return x, y, x + width, y + height


def split_by(dataset: str) -> str:
    """Return whose splits are used: "unc" or "umd". Raises ConfigError for an unknown data set."""
    return _entry(dataset)[0]


def splits_of(dataset: str) -> tuple[str, ...]:
    """Return the splits of a data set, in the order of the vocabulary: train, val, then the test splits."""
    return _entry(dataset)[1]


def check_split(dataset: str, split: str) -> None:
    """Raise ConfigError, listing the valid ones, unless the data set has the split."""
    if split not in splits_of(dataset):
        raise ConfigError(f"{dataset} has no split '{split}'; valid ones: {', '.join(splits_of(dataset))}")


def _entry(dataset: str) -> tuple[str, tuple[str, ...]]:
    if dataset not in _SPLITS:
        raise ConfigError(f"unknown data set '{dataset}'; {nearest(dataset, DATASETS)}")
    return _SPLITS[dataset]


def require_expressions(data_path: PathLike, dataset: str, split: str) -> list[Expression]:
    """Return the expressions of one split; none on the disk is a DataError that names the places."""
    return find_expressions(data_path, dataset, [split])[split]


def find_expressions(data_path: PathLike, dataset: str, splits: Iterable[str]) -> dict[str, list[Expression]]:
    """Return the expressions of each of `splits` that is there, in file order of refs, then of sentences.

    Raises DataError when a file is damaged, or none of the splits is there.
    """
    splits = list(splits)
    for split in splits:
        check_split(dataset, split)
    folder = Path(data_path) / "refs" / dataset
    originals = (folder / "instances.json", folder / f"refs({split_by(dataset)}).p")
    stamp = {path.name: _stamp(path) for path in originals if path.is_file()}
    found = {split: _processed(folder / f"{split}.json", stamp) for split in splits}
    if None in found.values() and len(stamp) == len(originals):
        made = _read_originals(*originals, dataset)
        for split in [split for split in splits if found[split] is None]:
            _keep(folder / f"{split}.json", made[split], stamp)
            found[split] = made[split]
    there = {split: expressions for split, expressions in found.items() if expressions is not None}
    if not there:
        raise DataError(_not_found(folder, originals, splits))
    return there


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _not_found(folder: Path, originals: tuple[Path, Path], splits: list[str]) -> str:
    others = [path.name for path in sorted(folder.glob("refs(*).p")) if path not in originals]
    hint = f"; {', '.join(others)} is of another split-by" if others else ""
    wanted = " and ".join(path.name for path in originals)
    return f"no expressions of {', '.join(splits)} in {folder}: put {wanted} there{hint}"


def _processed(path: Path, stamp: Mapping[str, list[int]]) -> list[Expression] | None:
    """Return what a processed file holds, or None when it is missing or made from other originals than these."""
    if not path.is_file():
        return None
    content = read_json(path, "processed expressions file")
    if isinstance(content, dict) and isinstance(content.get("originals"), dict) and "expressions" in content:
        if any(content["originals"].get(name) != value for name, value in stamp.items()):
            return None
        content = content["expressions"]
    if not isinstance(content, list) or not content:
        raise DataError(f"{path} holds no list of expressions: remove it, and it is made from the originals again")
    expressions = []
    for position, entry in enumerate(content):
        try:
            expressions.append(_expression(entry, _tokens(entry), _field(entry, "bbox", list)))
        except DataError as problem:
            raise DataError(f"{path}, entry {position}: {problem}") from None
    return expressions


def _keep(path: Path, expressions: list[Expression], stamp: Mapping[str, list[int]]) -> None:
    """Write a processed file; where that cannot be done, all that is lost is time."""
    try:
        write_json(path, {"originals": stamp, "expressions": [asdict(entry) for entry in expressions]})
    except OSError as exception:
        log.warning("%s could not be written (%s): the originals are read every time", path, exception.strerror)


def _read_originals(instances_path: Path, refs_path: Path, dataset: str) -> dict[str, list[Expression]]:
    """Join refs and annotations: the expressions of every split of the data set."""
    annotations = _read_annotations(instances_path)
    refs = read_plain_pickle(refs_path, "refs file")
    if not isinstance(refs, list):
        raise DataError(f"{refs_path} holds no list of refs: is it a refs file?")
    made: dict[str, list[Expression]] = {split: [] for split in splits_of(dataset)}
    for position, ref in enumerate(refs):
        try:
            split = _field(ref, "split", str)
            if split not in made:
                raise DataError(f"split {shown(split)} is none of {', '.join(made)}: it is of another split-by")
            made[split] += _expressions(ref, annotations, instances_path)
        except DataError as problem:
            raise DataError(f"{refs_path}, ref {position}: {problem}") from None
    empty = [split for split, expressions in made.items() if not expressions]
    if empty:
        raise DataError(f"{refs_path} has no ref of split {empty[0]}: it is of another split-by, or incomplete")
    return made


def _read_annotations(path: Path) -> dict[int, Any]:
    content = read_json(path, "instances file")
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f'{path} has no list "annotations" at its top level: is it an instances file?')
    return {entry["id"]: entry for entry in entries if isinstance(entry, dict) and type(entry.get("id")) is int}


def _expressions(ref: Any, annotations: Mapping[int, Any], path: Path) -> list[Expression]:
    """Return the expressions of one ref; `path` names where the annotations are from."""
    ann_id = _field(ref, "ann_id", int)
    if ann_id not in annotations:
        raise DataError(f"annotation id {ann_id} is not in {path}: both must be of the same release")
    annotation = annotations[ann_id]
    if annotation.get("image_id") != _field(ref, "image_id", int):
        raise DataError(f"annotation {ann_id} is of another image in {path}: both must be of the same release")
    try:
        box = _box(_field(annotation, "bbox", list))
    except DataError as problem:
        raise DataError(f"annotation {ann_id} in {path}: {problem}") from None
    common = {"image_id": ref["image_id"], "ref_id": _field(ref, "ref_id", int)}
    sentences = _field(ref, "sentences", list)
    return [
        _expression({**common, "sent_id": _field(sentence, "sent_id", int)}, _tokens(sentence), box)
        for sentence in sentences
    ]


def _expression(ids: Any, tokens: list[str], bbox: list[float]) -> Expression:
    image_id, ref_id, sent_id = (_field(ids, key, int) for key in ("image_id", "ref_id", "sent_id"))
    return Expression(image_id, ref_id, sent_id, tokens, _box(bbox))


def _tokens(entry: Any) -> list[str]:
    tokens = _field(entry, "tokens", list)
    if not all(isinstance(token, str) and is_text(token) for token in tokens):
        raise DataError('"tokens" must hold strings of whole characters')
    return tokens


def _box(values: list[Any]) -> list[float]:
    """Check x, y, width, height: finite numbers around an area."""
    numbers = [value for value in values if type(value) in (int, float) and abs(value) < 1e6]
    if len(numbers) != 4 or len(values) != 4:
        raise DataError(f'"bbox" must be four numbers x, y, width, height, not {shown(values)}')
    if min(numbers[2:]) <= 0:
        raise DataError(f'"bbox" {values} has no area: correct it, or remove what refers to it')
    return numbers


def _field(entry: Any, key: str, kind: type) -> Any:
    """Return `entry[key]`, which must be of the very type `kind`."""
    if type(entry) is not dict or key not in entry:
        raise DataError(f'the key "{key}" is missing: the file is damaged or of another format')
    if type(entry[key]) is not kind:
        wanted = {int: "an integer", str: "a string", list: "a list"}[kind]
        raise DataError(f'"{key}" must be {wanted}, not {shown(entry[key])}')
    if kind is int and abs(entry[key]) >= INT_LIMIT:
        raise DataError(f'"{key}" must be an integer of 64 bits, not {shown(entry[key])}')
    return entry[key]
