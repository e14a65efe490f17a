"""A small synthetic data set for all three tasks, in the real file formats and folders: to try things and to test.

Its images are scenes of simple things; pictures, region features, questions, referring expressions, captions and
word vectors all follow from them. Figures measured on it say nothing about the published ones.
"""

import contextlib
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

from mmnas.demo.captions import write_caption_files
from mmnas.demo.expressions import write_refs_files
from mmnas.demo.pictures import write_pictures
from mmnas.demo.regions import write_region_files
from mmnas.demo.scenes import draw_scenes
from mmnas.demo.vectors import write_vectors
from mmnas.demo.vqa_files import write_vqa_files
from mmnas.errors import ConfigError, DataError
from mmnas.files import PathLike, read_json, write_json

MIN_IMAGES, MAX_IMAGES = 20, 100_000  # every split of every task has an image; each has an id of its own

_VERSION = 2  # increase it when the same seed gives other bytes; worlds of other versions are written again
_MARK = "world.json"  # says what world this is; has the counts only once the world is complete
_PARTS = (
    "images coco_extract vqa vgd_coco detfeat100_woref refs rois_resnet101_fix36 flickr_rois_resnet101_fix36 itm "
    "word_vectors"
).split()


def write_world(out: PathLike, images: int = 400, seed: int = 0) -> dict[str, int]:
    """Write a world of `images` scenes to the data root `out`; return the number of questions, words, and so on.

    The same images and seed give the same bytes. A complete world of the same images and seed is left as it is; any
    other demo world in `out`, also an incomplete one, is replaced. Raises ConfigError for other numbers of images
    than from 20 to 100,000, a negative seed, or an `out` that holds anything else.
    """
    if not MIN_IMAGES <= images <= MAX_IMAGES:
        raise ConfigError(f"a demo world has at least {MIN_IMAGES} and at most {MAX_IMAGES} images, not {images}")
    if seed < 0:
        raise ConfigError(f"the seed of a demo world must be 0 or more, not {seed}")
    out, wanted = Path(out), {"demo_world": _VERSION, "images": images, "seed": seed}
    mark = _read_mark(out)
    if (
        "counts" in mark and mark.items() >= wanted.items() and (out / "images").is_dir()
    ):  # older worlds lack pictures
        return mark["counts"]
    write_json(out / _MARK, wanted)
    for part in _PARTS:
        shutil.rmtree(out / part, ignore_errors=True)
    scenes = draw_scenes(images, seed)
    write_pictures(out, scenes)
    write_region_files(out, scenes, seed)
    texts: dict[str, list[str]] = {}
    for write in (write_vqa_files, write_refs_files, write_caption_files):
        texts |= write(out, scenes, seed)
    words = write_vectors(out, chain.from_iterable(texts.values()))
    counts = {"images": images, "things": sum(len(scene.things) for scene in scenes)}
    counts |= {name: len(lines) for name, lines in texts.items()} | {"words": words}
    write_json(out / _MARK, {**wanted, "counts": counts}, indent=2)
    return counts


def _read_mark(out: Path) -> dict[str, Any]:
    """Return the mark of the demo world in `out`, {} for an empty or new directory; else raise ConfigError."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"a demo world needs a directory, and this is a file: {out}; name another path")
    if not out.exists() or not any(out.iterdir()):
        return {}
    mark = None
    with contextlib.suppress(DataError):
        mark = read_json(out / _MARK, "mark of a demo world")
    if not isinstance(mark, dict) or "demo_world" not in mark:
        raise ConfigError(f"{out} is not empty and not a demo world; name an empty or new directory")
    return mark
