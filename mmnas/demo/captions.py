"""The retrieval files of the world: five captions per scene, which together name everything in it.

The id files of Flickr30K list each image once, those of COCO once per caption; both forms are in use.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mmnas.demo import names
from mmnas.demo.scenes import Scene, Thing, child, pick
from mmnas.files import write_json

PER_IMAGE = 5

_NUMBERS = {3: "Three", 4: "Four", 5: "Five", 6: "Six"}
_ALL = "{number} things can be seen: {things}. / This picture shows {things}. / {things} on a plain background."
_THREE = (
    "There is {a}, and also {b} and {c}. / {a} is shown together with {b} and {c}. / "
    "A naïve drawing of {a}, {b} and {c}. / Someone painted {a}, {b}, and {c}."
)
_RELATED = "{c} and {a}, which is {relation} {b}. / {a} has been placed {relation} {b}; {c} is in the picture too."

Captions = dict[int, list[str]]  # by image id
Splits = dict[str, list[Scene]]


def describe(scene: Scene, seed: int) -> list[str]:
    """Return five captions of a scene: the first names everything in it, the others three things each."""
    rng = child(seed, "captions", scene.image_id)
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    wording = pick(_ALL.split(" / "), rng)
    *most, last = (_phrase(scene, thing, rng) for thing in things)
    listed = f"{', '.join(most)} and {last}"
    captions = {wording.format(number=_NUMBERS[len(things)], things=listed).capitalize(): None}
    while len(captions) < PER_IMAGE:
        chosen = [things[i] for i in rng.permutation(len(things))[:3]]
        a, b, c = (_phrase(scene, thing, rng) for thing in chosen)
        relation = _relation(chosen[0], chosen[1]) if rng.random() < 0.5 else None
        wording = pick((_RELATED if relation else _THREE).split(" / "), rng)
        captions[wording.format(a=a, b=b, c=c, relation=relation).capitalize()] = None
    return list(captions)


def _phrase(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """Return "a red ball", with the size half of the time, and always where there is another red ball."""
    name = f"{thing.color} {thing.shape}"
    sized = rng.random() < 0.5 or len(names.having(name, scene.things)) > 1
    return f"a {thing.size} {name}" if sized else f"a {name}"


def _relation(thing: Thing, other: Thing) -> str | None:
    """Return the direction in which the thing clearly is from the other."""
    gaps = {word: names.further(thing.center, other.center, way) for word, way in names.DIRECTIONS.items()}
    best = max(gaps, key=gaps.__getitem__)
    return best if gaps[best] >= names.CLEARLY else None


def write_caption_files(out: Path, scenes: list[Scene], seed: int) -> dict[str, list[str]]:
    """Write `itm/` (captions and ids of both data sets); return the captions of each."""
    captions = {scene.image_id: describe(scene, seed) for scene in scenes}
    numbers = {scene.image_id: number for number, scene in enumerate(scenes)}
    flickr, coco = flickr_splits(scenes), _coco_splits(scenes)
    _write_splits(out / "itm" / "f30k_precomp", flickr, captions, {i: [number] for i, number in numbers.items()})
    _write_splits(out / "itm" / "coco_precomp", coco, captions, {i: [i] * PER_IMAGE for i in numbers})
    images = [
        _flickr_image(scene, "val" if split == "dev" else split, captions[scene.image_id], numbers[scene.image_id])
        for split, members in flickr.items()
        for scene in members
    ]
    write_json(out / "itm" / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    coco_scenes = [scene for split in ("train", "dev", "testall") for scene in coco[split]]
    return {"Flickr30K captions": _lines(scenes, captions), "COCO captions": _lines(coco_scenes, captions)}


def flickr_splits(scenes: list[Scene]) -> Splits:
    """Split for Flickr30K: half of the val scenes join the test scenes."""
    train, val, test = (_of(scenes, split) for split in ("train2014", "val2014", "test2015"))
    half = len(val) // 2
    return {"train": train, "dev": val[:half], "test": val[half:] + test}


def _coco_splits(scenes: list[Scene]) -> Splits:
    """Split for COCO, whose captions are of train2014 and val2014: testall is five folds, test the first."""
    train, val = _of(scenes, "train2014"), _of(scenes, "val2014")
    fold = max(1, len(val) * 2 // 15)
    return {"train": train, "dev": val[5 * fold :], "test": val[:fold], "testall": val[: 5 * fold]}


def _of(scenes: list[Scene], split: str) -> list[Scene]:
    return [scene for scene in scenes if scene.split == split]


def _write_splits(folder: Path, splits: Splits, captions: Captions, ids: dict[int, list[int]]) -> None:
    """Write the captions and ids of each split; as published, the captions of test end without a newline."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, scenes in splits.items():
        lines = "\n".join(_lines(scenes, captions)) + ("" if split == "test" else "\n")
        (folder / f"{split}_caps.txt").write_bytes(lines.encode())
        numbers = "".join(f"{i}\n" for scene in scenes for i in ids[scene.image_id])
        (folder / f"{split}_ids.txt").write_bytes(numbers.encode())


def _lines(scenes: list[Scene], captions: Captions) -> list[str]:
    return [caption for scene in scenes for caption in captions[scene.image_id]]


def _flickr_image(scene: Scene, split: str, captions: list[str], imgid: int) -> dict[str, Any]:
    sentids = [PER_IMAGE * imgid + i for i in range(PER_IMAGE)]
    sentences = [
        {"tokens": caption.lower().rstrip(".").split(), "raw": caption, "imgid": imgid, "sentid": sentid}
        for caption, sentid in zip(captions, sentids, strict=True)
    ]
    keys = {"sentids": sentids, "imgid": imgid, "sentences": sentences}
    return {**keys, "split": split, "filename": scene.flickr_name}
