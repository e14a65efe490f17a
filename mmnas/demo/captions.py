"""Captions: five for each scene, which together name every thing in it, and the retrieval files.

Flickr30K's ids name an image once, COCO's once per caption; both forms are in use.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mmnas.demo import names
from mmnas.demo.names import Name
from mmnas.demo.region_files import flickr_name
from mmnas.demo.scenes import Scene, Thing, child, pick
from mmnas.files import replacing, write_json

PER_IMAGE = 5

_NUMBERS = {3: "Three", 4: "Four", 5: "Five", 6: "Six"}
_ALL = (
    "{number} things can be seen: {things}.",
    "This picture shows {things}.",
    "{things} on a plain background.",
)
_THREE = (
    "There is {a}, and also {b} and {c}.",
    "{a} is shown together with {b} and {c}.",
    "A naïve drawing of {a}, {b} and {c}.",
    "Someone painted {a}, {b}, and {c}.",
)
_RELATED = (
    "{c} and {a}, which is {relation} {b}.",
    "{a} has been placed {relation} {b}; {c} is in the picture too.",
)

Groups = dict[str, list[Scene]]


def describe(scene: Scene, seed: int) -> list[str]:
    """Return five captions of a scene: one names everything in it, the others three things each."""
    rng = child(seed, "captions", scene.image_id)
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    first = pick(_ALL, rng).format(number=_NUMBERS[len(things)], things=_listed(scene, things, rng))
    captions = {_sentence(first): None}
    while len(captions) < PER_IMAGE:
        chosen = [things[i] for i in rng.permutation(len(things))[:3]]
        phrases = dict(zip("abc", (_with_article(scene, thing, rng) for thing in chosen), strict=True))
        relation = _relation(chosen) if rng.random() < 0.5 else None
        wording = pick(_RELATED if relation else _THREE, rng)
        captions[_sentence(wording.format(**phrases, relation=relation))] = None
    return list(captions)


def write_caption_files(out: Path, scenes: list[Scene], seed: int) -> dict[str, list[str]]:
    """Write `itm/` (captions and ids of both data sets); return the captions of each."""
    captions = {scene.image_id: describe(scene, seed) for scene in scenes}
    flickr, coco = flickr_splits(scenes), _coco_splits(scenes)
    imgids = {scene.image_id: number for number, scene in enumerate(scenes)}
    _write_splits(out / "itm" / "f30k_precomp", flickr, captions, imgids, times=1)
    _write_splits(out / "itm" / "coco_precomp", coco, captions, {i: i for i in imgids}, times=PER_IMAGE)
    write_json(out / "itm" / "dataset_flickr30k.json", _flickr_json(flickr, captions, imgids))
    return {
        "Flickr30K captions": _lines(scenes, captions),
        "COCO captions": _lines(coco["train"] + coco["dev"] + coco["testall"], captions),
    }


def flickr_splits(scenes: list[Scene]) -> Groups:
    """Train on the train scenes, as all tasks do; half of the val scenes join the test scenes."""
    train, val, test = (_of(scenes, split) for split in ("train2014", "val2014", "test2015"))
    half = len(val) // 2
    return {"train": train, "dev": val[:half], "test": val[half:] + test}


def _coco_splits(scenes: list[Scene]) -> Groups:
    """COCO's captions cover train2014 and val2014; testall makes five folds, of which test is the first."""
    train, val = _of(scenes, "train2014"), _of(scenes, "val2014")
    fold = max(1, len(val) * 2 // 15)
    return {"train": train, "dev": val[5 * fold :], "test": val[:fold], "testall": val[: 5 * fold]}


def _of(scenes: list[Scene], split: str) -> list[Scene]:
    return [scene for scene in scenes if scene.split == split]


def _write_splits(
    folder: Path, splits: Groups, captions: dict[int, list[str]], ids: dict[int, int], times: int
) -> None:
    """Write captions and ids (each `times` times) of each split; no newline ends the captions of test."""
    for split, scenes in splits.items():
        lines = _lines(scenes, captions)
        _write_text(folder / f"{split}_caps.txt", "\n".join(lines) + ("" if split == "test" else "\n"))
        numbers = [str(ids[scene.image_id]) for scene in scenes for _ in range(times)]
        _write_text(folder / f"{split}_ids.txt", "\n".join(numbers) + "\n")


def _lines(scenes: list[Scene], captions: dict[int, list[str]]) -> list[str]:
    return [caption for scene in scenes for caption in captions[scene.image_id]]


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def _flickr_json(splits: Groups, captions: dict[int, list[str]], imgids: dict[int, int]) -> dict[str, Any]:
    images = [
        _flickr_image(scene, {"dev": "val"}.get(split, split), captions[scene.image_id], imgids[scene.image_id])
        for split, scenes in splits.items()
        for scene in scenes
    ]
    return {"images": images, "dataset": "flickr30k"}


def _flickr_image(scene: Scene, split: str, captions: list[str], imgid: int) -> dict[str, Any]:
    sentids = [PER_IMAGE * imgid + i for i in range(PER_IMAGE)]
    sentences = [
        {"tokens": caption.lower().rstrip(".").split(), "raw": caption, "imgid": imgid, "sentid": sentid}
        for caption, sentid in zip(captions, sentids, strict=True)
    ]
    return {
        "sentids": sentids,
        "imgid": imgid,
        "sentences": sentences,
        "split": split,
        "filename": flickr_name(scene),
    }


def _relation(things: list[Thing]) -> str | None:
    """Return a direction in which the first thing clearly is of the second."""
    gaps = {word: names.further(things[0], things[1], direction) for word, direction in names.DIRECTIONS.items()}
    best = max(gaps, key=gaps.__getitem__)
    return best if gaps[best] >= names.CLEARLY else None


def _listed(scene: Scene, things: list[Thing], rng: np.random.Generator) -> str:
    *most, last = (_with_article(scene, thing, rng) for thing in things)
    return f"{', '.join(most)} and {last}"


def _with_article(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """Return "a red ball", with its size now and then, and wherever something else is a red ball too."""
    name = Name(color=thing.color, shape=thing.shape)
    sized = rng.random() < 0.5 or len(name.among(scene.things)) > 1
    return f"a {Name(*thing.look) if sized else name}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
