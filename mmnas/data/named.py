"""The samples of a data set by its name: those of a published one, or one's own."""

from collections.abc import Iterable
from pathlib import Path

from mmnas.data import own, refs, scan_precomp
from mmnas.data.own import OWN
from mmnas.data.refs import Expression
from mmnas.data.scan_precomp import Captions
from mmnas.data.vqa_json import QuestionFiles
from mmnas.files import PathLike


def question_files(root: PathLike, dataset: str) -> "QuestionFiles | own.OwnQuestions":
    """Return what finds and reads the questions and annotations of each split."""
    return own.OwnQuestions(root) if dataset == OWN else QuestionFiles(root)


def expression_splits(root: PathLike, dataset: str) -> tuple[str, ...]:
    """Return the splits of a grounding data set."""
    return own.splits_of(root, "vgd") if dataset == OWN else refs.splits_of(dataset)


def find_expressions(root: PathLike, dataset: str, splits: Iterable[str]) -> dict[str, list[Expression]]:
    """Return the expressions of those of `splits` that are there. Raises `MissingData` for none."""
    return own.find_expressions(root, splits) if dataset == OWN else refs.find_expressions(root, dataset, splits)


def read_captions(root: PathLike, dataset: str, split: str) -> Captions:
    """Return a split of a matching data set. Raises `MissingData` when it is missing."""
    if dataset == OWN:
        return own.read_captions(root, split)
    return scan_precomp.read_split(root, dataset, "dev" if split == "val" else split)


def caption_splits(root: PathLike, dataset: str) -> tuple[str, ...]:
    """Return the splits of a matching data set."""
    return own.splits_of(root, "itm") if dataset == OWN else scan_precomp.splits_of(dataset)


def caption_files(root: PathLike, dataset: str, split: str) -> list[Path]:
    """Return the files that hold the captions of a split, and the ids of their images."""
    if dataset == OWN:
        return [Path(root, own.CAPTIONS)]
    path = scan_precomp.captions_path(root, dataset, split)
    return [path, path.with_name(f"{split}_ids.txt")]


def caption_texts(root: PathLike, dataset: str) -> Iterable[str]:
    """Return the captions of all splits. Raises `MissingData` when there are none."""
    return own.caption_texts(root) if dataset == OWN else scan_precomp.caption_texts(root, dataset)
