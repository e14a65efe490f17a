"""A small made-up world in the real formats and layout, for all three tasks: to try things and to test.

Its images are scenes of simple things; region features, questions, referring expressions, captions and
word vectors are all derived from them. What can be learnt from it says nothing of the published figures.
"""

import shutil
from itertools import chain
from pathlib import Path
from typing import Any

from mmnas.demo.captions import write_caption_files
from mmnas.demo.refs_files import write_refs_files
from mmnas.demo.region_files import write_region_files
from mmnas.demo.scenes import draw_scenes
from mmnas.demo.vectors import write_vectors
from mmnas.demo.vqa_files import write_vqa_files
from mmnas.errors import ConfigError, DataError
from mmnas.files import PathLike, read_json, write_json

__all__ = ["FEWEST_IMAGES", "write_world"]

FEWEST_IMAGES = 20  # so that every split of every task has an image

_VERSION = 1  # of what a seed stands for; a world of another version is written anew
_MARK = "world.json"  # written last, and only then is the world complete
_BEGUN = ".world_begun"  # stands from the first file to the last
_PARTS = (
    "coco_extract",
    "vqa",
    "vgd_coco",
    "detfeat100_woref",
    "refs",
    "rois_resnet101_fix36",
    "flickr_rois_resnet101_fix36",
    "itm",
    "word_vectors",
)


def write_world(out: PathLike, images: int = 400, seed: int = 0) -> dict[str, int]:
    """Write a world of `images` scenes as the data root `out`; return how much of what it holds.

    The same images and seed give the same bytes. A complete world that was asked for in the same way is
    left as it is; any other demo world in `out`, a half-written one too, is replaced. Raises ConfigError
    for fewer than 20 images, a negative seed, or an `out` that holds anything else.
    """
    if images < FEWEST_IMAGES:
        raise ConfigError(f"a demo world needs at least {FEWEST_IMAGES} images, not {images}")
    if seed < 0:
        raise ConfigError(f"the seed of a demo world must be 0 or more, not {seed}")
    out, wanted = Path(out), {"demo_world": _VERSION, "images": images, "seed": seed}
    standing = _standing_world(out)
    if standing.items() >= wanted.items():
        return standing["counts"]
    _clear(out)
    counts = _write_parts(out, images, seed)
    write_json(out / _MARK, {**wanted, "counts": counts}, indent=2)
    (out / _BEGUN).unlink()
    return counts


def _standing_world(out: Path) -> dict[str, Any]:
    """Return the mark of the complete demo world in `out`, {} if there is room for one, else raise."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"a demo world needs a directory, and this is a file: {out}; name another path")
    if not out.exists() or (out / _BEGUN).exists() or not any(out.iterdir()):
        return {}
    try:
        mark = read_json(out / _MARK, "mark of a demo world")
    except DataError:
        mark = None
    if not isinstance(mark, dict) or "demo_world" not in mark:
        raise ConfigError(f"{out} is not empty and not a demo world; name an empty or new directory")
    return mark


def _clear(out: Path) -> None:
    """Make `out` ready: begun, and without what an earlier world left there."""
    out.mkdir(parents=True, exist_ok=True)
    (out / _BEGUN).touch()
    (out / _MARK).unlink(missing_ok=True)
    for part in _PARTS:
        shutil.rmtree(out / part, ignore_errors=True)


def _write_parts(out: Path, images: int, seed: int) -> dict[str, int]:
    scenes = draw_scenes(images, seed)
    write_region_files(out, scenes, seed)
    texts = {
        **write_vqa_files(out, scenes, seed),
        **write_refs_files(out, scenes, seed),
        **write_caption_files(out, scenes, seed),
    }
    words = write_vectors(out, chain.from_iterable(texts.values()))
    return {
        "images": images,
        "things": sum(len(scene.things) for scene in scenes),
        **{name: len(lines) for name, lines in texts.items()},
        "words": words,
    }
