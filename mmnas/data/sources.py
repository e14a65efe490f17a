"""Where the region features of each task lie: their usual folders, other layouts, or a packed store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmnas.data.features import NpzFolders, Reader, RegionSource, read_mask_rcnn_npz, read_npz
from mmnas.data.packed import packed_at
from mmnas.data.refs import split_by
from mmnas.errors import DataError
from mmnas.files import PathLike

VQA_FOLDERS = ("train2014", "val2014", "test2015")
"""The folders of npz files of VQA, read together; any of them may be missing."""


@dataclass(frozen=True)
class _Layout:
    """Folders below the data root, the preferred one first, each with its features in `parts` or, without, itself."""

    folders: tuple[str, ...]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Kind:
    """A kind of features for grounding; in `folder`, `{name}` is the data set and its split-by."""

    folder: str
    width: int
    read: Reader


_VQA = _Layout(("coco_extract", "vqa/bua-r101-max100"), VQA_FOLDERS)
_MATCHING = {
    "flickr": _Layout(("flickr_rois_resnet101_fix36",)),
    "coco": _Layout(("rois_resnet101_fix36",), ("train2014", "val2014")),
}
_GROUNDING: Mapping[str, _Kind] = {
    "vg_woref": _Kind("vgd_coco/fix100/{name}", 2048, read_npz),
    "coco_mrcn": _Kind("detfeat100_woref", 2048 + 1024, read_mask_rcnn_npz),
}
KINDS = tuple(_GROUNDING)
"""The kinds of features for grounding; `feature_width` and `grounding_features` take no other."""


def feature_width(kind: str) -> int:
    """Return the width of a region feature of the kind."""
    return _GROUNDING[kind].width


def find_vqa_folders(data_path: PathLike, feat_path: PathLike | None = None) -> list[Path]:
    """Return the folders with features for VQA. Raises DataError naming the places when there are none."""
    return _find_folders("region features", _VQA, data_path, feat_path)


def question_features(data_path: PathLike, feat_path: PathLike | None, feature_size: int) -> RegionSource:
    """Return the region features for VQA, see `_open_source`."""
    return _open_source("region features", _VQA, data_path, feat_path, feature_size, read_npz)


def grounding_features(
    data_path: PathLike, feat_path: PathLike | None, dataset: str, kind: str, feature_size: int
) -> RegionSource:
    """Return the region features of one kind of a data set for grounding, see `_open_source`."""
    folder = _GROUNDING[kind].folder.format(name=f"{dataset}_{split_by(dataset)}")
    what = f"{kind} features of {dataset}"
    return _open_source(what, _Layout((folder,)), data_path, feat_path, feature_size, _GROUNDING[kind].read)


def matching_features(
    data_path: PathLike, feat_path: PathLike | None, dataset: str, feature_size: int
) -> RegionSource:
    """Return the region features of a data set for image-text matching, see `_open_source`."""
    what = f"region features of {dataset}"
    return _open_source(what, _MATCHING[dataset], data_path, feat_path, feature_size, read_npz)


def _open_source(
    what: str, layout: _Layout, data_path: PathLike, feat_path: PathLike | None, feature_size: int, read: Reader
) -> RegionSource:
    """Return the packed store that `feat_path` names, or else the folders that are found.

    Without `feat_path`, the usual folders under the data root are tried. A `feat_path` is the only place looked at:
    the folder itself or a folder of the usual name in it. Raises DataError naming the places when none has features.
    """
    store = packed_at(feat_path, feature_size, read)
    folders = () if store is not None else _find_folders(what, layout, data_path, feat_path)
    return store if store is not None else NpzFolders(folders, feature_size, read)


def _find_folders(what: str, layout: _Layout, data_path: PathLike, feat_path: PathLike | None) -> list[Path]:
    if feat_path is None:
        places = [Path(data_path) / folder for folder in layout.folders]
    else:
        places = [*(Path(feat_path) / Path(folder).name for folder in layout.folders), Path(feat_path)]
    for place in places:
        folders: Sequence[Path] = [place / part for part in layout.parts] or [place]
        present = [folder for folder in folders if any(folder.glob("*.npz"))]
        if present:
            return present
    parts = f" ({', '.join(layout.parts)})" if layout.parts else ""
    raise DataError(
        f"no {what} found: put the folder{'s' if parts else ''}{parts} of .npz files in one of these places: "
        f"{', '.join(map(str, places))}"
    )
