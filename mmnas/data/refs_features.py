"""The two kinds of region features for grounding: where their folders lie, how wide they are, how to read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmnas.data.features import NpzFolders, Reader, RegionSource, read_mask_rcnn_npz, read_npz
from mmnas.data.refs import split_by
from mmnas.data.store import open_store
from mmnas.errors import DataError
from mmnas.files import PathLike


@dataclass(frozen=True)
class _Kind:
    """One kind: `folder` (below the data root, in which `{name}` is data set and split-by), width, reader."""

    folder: str
    width: int
    read: Reader


_KINDS: Mapping[str, _Kind] = {
    "vg_woref": _Kind("vgd_coco/fix100/{name}", 2048, read_npz),
    "coco_mrcn": _Kind("detfeat100_woref", 2048 + 1024, read_mask_rcnn_npz),
}


KINDS = tuple(_KINDS)
"""The valid names; `feature_width` and `grounding_features` take no other."""


def feature_width(kind: str) -> int:
    """Return the width of a region feature of the kind."""
    return _KINDS[kind].width


def grounding_features(
    data_path: PathLike, feat_path: PathLike | None, dataset: str, kind: str, feature_size: int
) -> RegionSource:
    """Return the region features of a data set.

    A `feat_path` that is given is the only place looked at: a feature store, the folder itself, or a folder of
    the usual name in it. Raises DataError naming the places when there is none with an npz file.
    """
    entry = _KINDS[kind]
    store = open_store(feat_path, feature_size, entry.read)
    if store is not None:
        return store
    folder = Path(entry.folder.format(name=f"{dataset}_{split_by(dataset)}"))
    places = [Path(data_path) / folder] if feat_path is None else [Path(feat_path) / folder.name, Path(feat_path)]
    for place in places:
        if any(place.glob("*.npz")):
            return NpzFolders([place], feature_size, entry.read)
    raise DataError(
        f"no region features of {dataset} for --FEAT={kind}: put the .npz files in one of these places: "
        f"{', '.join(map(str, places))}"
    )
