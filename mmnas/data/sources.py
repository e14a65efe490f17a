"""Where the region features of each task lie: the usual folders, the user's own, or a feature store."""

from dataclasses import dataclass, replace
from pathlib import Path

from mmnas.data.features import WIDTHS, IdOf, NpzFolders, RegionSource, image_id_of
from mmnas.data.own import OWN, own_image_id
from mmnas.data.refs import split_by
from mmnas.data.store import open_store
from mmnas.errors import MissingData
from mmnas.files import PathLike


@dataclass(frozen=True)
class _Layout:
    """Folders below the data root, the preferred one first; with `parts`, these folders in it hold the features.

    In a folder, `{name}` stands for the data set and its split-by. `kind` is that of `features.KEYS`; `id_of` tells
    the image of a file from its name.
    """

    folders: tuple[str, ...]
    parts: tuple[str, ...] = ()
    kind: str = "x"
    id_of: IdOf = image_id_of


_OWN = _Layout(("features",), id_of=own_image_id)
_QUESTIONS = _Layout(("coco_extract", "vqa/bua-r101-max100"), ("train2014", "val2014", "test2015"))
_GROUNDING = {
    "vg_woref": _Layout(("vgd_coco/fix100/{name}", "vgd/bua-r101-fix100")),
    "coco_mrcn": _Layout(("detfeat100_woref",), kind="fc7+pool5"),
}
_MATCHING = {
    "flickr": _Layout(("flickr_rois_resnet101_fix36", "itm/flickr_bua-r101-fix36")),
    "coco": _Layout(("rois_resnet101_fix36", "itm/bua-r101-fix36"), ("train2014", "val2014")),
    OWN: _OWN,
}
KINDS = tuple(_GROUNDING)
"""The kinds of features for grounding; `feature_width` and `grounding_features` take no other."""
FEATURE_FOLDERS = _QUESTIONS.parts
"""The folders of features for questions; any of them may be missing."""


def feature_width(kind: str) -> int:
    """Return the width of a region feature of a kind for grounding."""
    return WIDTHS[_GROUNDING[kind].kind]


def find_feature_folders(data_path: PathLike, feat_path: PathLike | None = None) -> list[Path]:
    """Return those of `FEATURE_FOLDERS` with features. Raises DataError naming the places when there are none."""
    return _find_folders("region features", _QUESTIONS, data_path, feat_path)


def question_features(
    data_path: PathLike, feat_path: PathLike | None, feature_size: int, dataset: str = ""
) -> RegionSource:
    """Return the region features for questions, see `_open`."""
    return _open("region features", _OWN if dataset == OWN else _QUESTIONS, data_path, feat_path, feature_size)


def grounding_features(
    data_path: PathLike, feat_path: PathLike | None, dataset: str, kind: str, feature_size: int
) -> RegionSource:
    """Return the region features of a data set for grounding, see `_open`."""
    layout, name = _GROUNDING[kind], dataset
    if dataset == OWN:
        layout = replace(_OWN, kind=layout.kind)
    else:
        name += f"_{split_by(dataset)}"
    return _open(f"region features of {dataset} (--FEAT={kind})", layout, data_path, feat_path, feature_size, name)


def matching_features(
    data_path: PathLike, feat_path: PathLike | None, dataset: str, feature_size: int
) -> RegionSource:
    """Return the region features of a data set for image-text matching, see `_open`."""
    return _open(f"region features of {dataset}", _MATCHING[dataset], data_path, feat_path, feature_size)


def _open(
    what: str,
    layout: _Layout,
    data_path: PathLike,
    feat_path: PathLike | None,
    feature_size: int,
    name: str = "",
) -> RegionSource:
    """Return the feature store that `feat_path` names, or else the folders that are found.

    Without `feat_path`, the usual folders below the data root are tried. A `feat_path` is the only place searched:
    a folder of the usual name in it, or the folder itself. Raises DataError naming the places without features.
    """
    store = open_store(feat_path, feature_size, layout.kind)
    if store is not None:
        return store
    return NpzFolders(
        _find_folders(what, layout, data_path, feat_path, name), feature_size, layout.kind, layout.id_of
    )


def _find_folders(
    what: str, layout: _Layout, data_path: PathLike, feat_path: PathLike | None, name: str = ""
) -> list[Path]:
    usual = [Path(folder.format(name=name)) for folder in layout.folders]
    places = [Path(data_path, folder) for folder in usual]
    if feat_path is not None:
        places = [*(Path(feat_path, folder.name) for folder in usual), Path(feat_path)]
    for place in places:
        folders = [place / part for part in layout.parts] or [place]
        present = [folder for folder in folders if any(folder.glob("*.npz"))]
        if present:
            return present
    wanted = f"the folders {', '.join(layout.parts)}" if layout.parts else "a folder"
    raise MissingData(
        f"no {what} found: put {wanted} of .npz files in one of these places: {', '.join(map(str, places))}; "
        "or name their folder or feature store by --FEAT_PATH"
    )
