"""RefCOCO, RefCOCO+ and RefCOCOg: referring expressions and the boxes that they mean.

Yu et al., "Modeling Context in Referring Expressions", ECCV 2016 (the UNC splits), and Nagaraja et al.,
ECCV 2016 (the UMD splits). `instances.json` and `refs(<split-by>).p` are read as they are distributed.
The expressions of a split are kept beside them as `<split>.json`, with the size and time of both originals,
and read again from the originals when these change. A `<split>.json` that is a plain list, as the published code
makes it, is the user's own and never replaced. Boxes are x, y, width, height in files, and xyxy pixels (x + width,
y + height) in memory.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mmnas.data.pickles import read_plain_pickle
from mmnas.errors import DataError, MissingData
from mmnas.files import Int64, PathLike, is_text, read_json, write_json, writing_cache
from mmnas.schema import describe_misfit, require_one_of, shown

_UNC = ("unc", ("train", "val", "testA", "testB"))
_UMD = ("umd", ("train", "val", "test"))
_SPLITS = {"refcoco": _UNC, "refcoco+": _UNC, "refcocog": _UMD}
DATASETS = tuple(_SPLITS)
_Pixels = Annotated[float, Meta(gt=-1e6, lt=1e6)]
Box = tuple[_Pixels, _Pixels, _Pixels, _Pixels]


class Expression(Struct, frozen=True):
    """One phrase for one thing of one image; `bbox` is x, y, width, height in pixels."""

    image_id: Int64
    tokens: list[str]
    bbox: Box
    ref_id: Int64 | None = None  # the lists of the published code have neither
    sent_id: Int64 | str | None = None

    def __post_init__(self) -> None:
        if min(self.bbox[2:]) <= 0:
            raise ValueError(f"the bbox {list(self.bbox)} has no area: correct it, or remove what refers to it")
        if not all(map(is_text, self.tokens)):
            raise ValueError("tokens hold half of a character (a lone surrogate)")

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels."""
        x, y, width, height = self.bbox
        return x, y, x + width, y + height


class _Kept(Struct):
    """A `<split>.json` that this module wrote."""

    originals: dict[str, Any]
    expressions: Annotated[list[Expression], Meta(min_length=1)]


class _Annotation(Struct, gc=False):
    """An object of `instances.json`; only the boxes of those that a ref names have to be valid."""

    id: Int64
    image_id: Int64
    bbox: msgspec.Raw


class _Instances(Struct):
    annotations: list[_Annotation]


class _Sentence(Struct):
    sent_id: Int64
    tokens: list[str]


class _Ref(Struct):
    split: str
    ann_id: Int64
    image_id: Int64
    ref_id: Int64
    sentences: list[_Sentence]


def split_by(dataset: str) -> str:
    """Return the name of the splits, "unc" or "umd". Raises ConfigError for an unknown data set."""
    require_one_of("data set", dataset, DATASETS)
    return _SPLITS[dataset][0]


def splits_of(dataset: str) -> tuple[str, ...]:
    """Return the splits of a data set, in the order of the vocabulary: train, val, then the test splits."""
    require_one_of("data set", dataset, DATASETS)
    return _SPLITS[dataset][1]


def expressions_folder(data_path: PathLike, dataset: str) -> Path:
    """Return the folder of a data set's files: `refs/<dataset>`, or `vgd/<dataset>` where only that holds any."""
    usual, later = (Path(data_path, room, dataset) for room in ("refs", "vgd"))
    return later if any(later.glob("*")) and not any(usual.glob("*")) else usual


def find_expressions(data_path: PathLike, dataset: str, splits: Iterable[str]) -> dict[str, list[Expression]]:
    """Return the expressions of those of `splits` that are found, in the order of refs, then of sentences.

    Raises DataError when a file is damaged, or none of the splits is found.
    """
    splits = list(splits)
    for split in splits:
        require_one_of(f"{dataset}'s split", split, splits_of(dataset))
    folder = expressions_folder(data_path, dataset)
    originals = (folder / "instances.json", folder / f"refs({split_by(dataset)}).p")
    stats = {path.name: path.stat() for path in originals if path.is_file()}
    stamp = {name: [status.st_size, status.st_mtime_ns] for name, status in stats.items()}
    found = {split: _processed(folder / f"{split}.json", stamp) for split in splits}
    if None in found.values() and len(stamp) == len(originals):
        made = _read_originals(*originals, dataset)
        for split in [split for split in splits if found[split] is None]:
            found[split] = made[split]
            with writing_cache(folder / f"{split}.json"):
                kept = msgspec.to_builtins({"originals": stamp, "expressions": made[split]})
                write_json(folder / f"{split}.json", kept)
    there = {split: expressions for split, expressions in found.items() if expressions is not None}
    if not there:
        others = [path.name for path in sorted(folder.glob("refs(*).p")) if path not in originals]
        hint = f"; {', '.join(others)} is of another split-by" if others else ""
        wanted = " and ".join(path.name for path in originals)
        raise MissingData(f"no expressions of {', '.join(splits)} in {folder}: put {wanted} there{hint}")
    return there


def _processed(path: Path, stamp: Mapping[str, list[int]]) -> list[Expression] | None:
    """Return what a processed file holds, or None when it is missing or made from other originals than these."""
    if not path.is_file():
        return None
    kind = _Kept | Annotated[list[Expression], Meta(min_length=1)]
    content = read_json(path, "processed expressions file", kind=kind)
    if not isinstance(content, _Kept):
        return content
    current = all(content.originals.get(name) == value for name, value in stamp.items())
    return content.expressions if current else None


def _read_originals(instances_path: Path, refs_path: Path, dataset: str) -> dict[str, list[Expression]]:
    """Join refs and annotations: the expressions of every split of the data set."""
    instances = read_json(instances_path, "instances file", kind=_Instances)
    annotations = {annotation.id: annotation for annotation in instances.annotations}
    refs = read_plain_pickle(refs_path, "refs file")
    if not isinstance(refs, list):
        raise DataError(f"{refs_path} holds no list of refs: is it a refs file?")
    made: dict[str, list[Expression]] = {split: [] for split in splits_of(dataset)}
    for index, entry in enumerate(refs):
        try:
            ref = msgspec.convert(entry, _Ref)
            if ref.split not in made:
                raise DataError(f"split {shown(ref.split)} is none of {', '.join(made)}: it is of another split-by")
            made[ref.split] += _expressions(ref, annotations, instances_path)
        except ValueError as problem:  # also msgspec's, and a key with half of a character
            raise DataError(f"{refs_path}, ref {index}: {describe_misfit(problem)}") from None
    empty = [split for split, expressions in made.items() if not expressions]
    if empty:
        raise DataError(f"{refs_path} has no ref of split {empty[0]}: it is of another split-by, or incomplete")
    return made


def _expressions(ref: _Ref, annotations: Mapping[int, _Annotation], path: Path) -> list[Expression]:
    """Return the expressions of one ref; `path` is the file of the annotations."""
    annotation = annotations.get(ref.ann_id)
    if annotation is None:
        raise DataError(f"annotation id {ref.ann_id} is not in {path}: both must be of the same release")
    if annotation.image_id != ref.image_id:
        raise DataError(f"annotation {ref.ann_id} is of another image in {path}: both must be of the same release")
    try:
        box = msgspec.json.decode(annotation.bbox, type=Box)
        return [Expression(ref.image_id, each.tokens, box, ref.ref_id, each.sent_id) for each in ref.sentences]
    except msgspec.ValidationError as exception:
        raise DataError(f"annotation {ref.ann_id} in {path}: bbox: {describe_misfit(exception)}") from None
    except ValueError as exception:
        raise DataError(f"annotation {ref.ann_id} in {path}: {exception}") from None
