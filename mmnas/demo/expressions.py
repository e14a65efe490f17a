"""The grounding files of the world: referring expressions in the manner of each data set, and `instances.json`.

RefCOCO's expressions are short and may say where a thing is; RefCOCO+'s never do; RefCOCOg's are longer and relate
one thing to another. Each expression is true of one thing in the scene only.
"""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.demo import names
from mmnas.demo.names import Superlative
from mmnas.demo.scenes import INFO, LICENSE, SHAPES, Scene, Thing, child, pick
from mmnas.files import write_json

# What fills the slots of a wording; None where the expression would be ambiguous.
Slots = dict[str, object] | None
# A way to refer to a thing: finds what to say, and the wordings for it, separated by slashes.
Way = tuple[Callable[[Scene, Thing, np.random.Generator], Slots], str]

_TRIES = 30
_OFF_CENTER = 0.05  # fraction of the canvas: the thing is inside the half named, its rivals inside the other


@dataclass(frozen=True)
class Style:
    """How one data set refers; `split_by` names who split it: "unc" or "umd"."""

    split_by: str
    test_splits: tuple[str, ...]
    phrases_per_thing: int
    ways: tuple[Way, ...]


def refer(style: Style, scene: Scene, thing: Thing, rng: np.random.Generator) -> list[str]:
    """Return up to `style.phrases_per_thing` different phrases for the thing."""
    phrases: dict[str, None] = {}
    for _ in range(_TRIES):
        if len(phrases) == style.phrases_per_thing:
            break
        find, wordings = pick(style.ways, rng)
        if slots := find(scene, thing, rng):
            phrases[pick(wordings.split(" / "), rng).format(**slots)] = None
    return list(phrases)


def _by_name(scene: Scene, thing: Thing, rng: np.random.Generator) -> Slots:
    """Refer by looks alone: "red ball"."""
    name = names.unique_name(scene, thing, rng)
    return {"name": name} if name else None


def _by_side(scene: Scene, thing: Thing, rng: np.random.Generator) -> Slots:
    """Refer by the half of the picture: "ball on the left"."""
    name, side = pick(names.all_names(thing), rng), pick(tuple(names.SIDES), rng)
    depths = names.gaps(names.having(name, scene.things), names.MIDDLE, names.SIDES[side])
    clear = depths.pop(thing) >= _OFF_CENTER and all(depth <= -_OFF_CENTER for depth in depths.values())
    return {"name": name, "side": side} if clear else None


def _by_superlative(choices: dict[str, Superlative], scene: Scene, thing: Thing, rng: np.random.Generator) -> Slots:
    """Refer by the rank among all that have the name: "leftmost ball"."""
    name, word = pick(names.all_names(thing, hidden="size"), rng), pick(tuple(choices), rng)
    best = names.clear_winner(names.having(name, scene.things), choices[word])
    return {"superlative": word, "name": name} if best is thing else None


def _by_nearness(scene: Scene, thing: Thing, rng: np.random.Generator) -> Slots:
    """Refer by what it is nearest to: "ball closest to the cube"."""
    other = names.another(scene, thing, rng)
    name, other_name = pick(names.all_names(thing), rng), names.unique_name(scene, other, rng)
    clear = other_name and names.nearest(names.having(name, scene.things), other) is thing
    return {"name": name, "other": other_name} if clear else None


def _by_direction(scene: Scene, thing: Thing, rng: np.random.Generator) -> Slots:
    """Refer by the direction from another thing, in which no rival lies at all: "ball above the cube"."""
    other = names.another(scene, thing, rng)
    name, other_name = pick(names.all_names(thing), rng), names.unique_name(scene, other, rng)
    relation = pick(tuple(names.DIRECTIONS), rng)
    rivals = [one for one in names.having(name, scene.things) if one is not other]
    gaps = names.gaps(rivals, other.center, names.DIRECTIONS[relation])
    clear = other_name and gaps.pop(thing) >= names.CLEARLY and all(gap <= 0 for gap in gaps.values())
    return {"name": name, "relation": relation, "other": other_name} if clear else None


_REFCOCO: tuple[Way, ...] = (
    (_by_name, "{name} / the {name}"),
    (_by_side, "{name} on {side} / {side} {name} / {name} at the {side}"),
    (partial(_by_superlative, names.SUPERLATIVES), "{superlative} {name}"),
)
_REFCOCO_PLUS: tuple[Way, ...] = (
    (_by_name, "{name} / the {name} / this {name}"),
    (partial(_by_superlative, names.BY_SIZE), "{superlative} {name}"),
    (_by_nearness, "{name} closest to the {other} / {name} nearest to {other}"),
)
_REFCOCOG: tuple[Way, ...] = (
    (_by_name, "a {name} shown in the picture / the only {name} that can be seen"),
    (_by_nearness, "the {name} that lies nearest to the {other} / a {name} which is closest to the {other}"),
    (_by_direction, "the {name} that is {relation} the {other} / a {name} lying {relation} a {other}"),
)
STYLES = {
    "refcoco": Style("unc", ("testA", "testB"), 3, _REFCOCO),
    "refcoco+": Style("unc", ("testA", "testB"), 3, _REFCOCO_PLUS),
    "refcocog": Style("umd", ("test",), 2, _REFCOCOG),
}


def write_refs_files(out: Path, scenes: list[Scene], seed: int) -> dict[str, list[str]]:
    """Write `refs/<dataset>` for the three data sets; return the expressions of each."""
    texts = {}
    for dataset, style in STYLES.items():
        folder = out / "refs" / dataset
        refs = _refs(style, scenes, dataset, seed)
        write_json(folder / "instances.json", _instances(scenes))
        # Protocol 2, as published. A pickle also records which strings are one object in memory; those that come
        # out of JSON do not depend on how they were made.
        (folder / f"refs({style.split_by}).p").write_bytes(pickle.dumps(json.loads(json.dumps(refs)), protocol=2))
        texts[f"{dataset} expressions"] = [sentence["sent"] for ref in refs for sentence in ref["sentences"]]
    return texts


def _refs(style: Style, scenes: list[Scene], dataset: str, seed: int) -> list[dict[str, Any]]:
    """Return one entry for each thing that can be referred to; test scenes alternate between test splits."""
    refs: list[dict[str, Any]] = []
    sentence_ids, test_splits = count(), cycle(style.test_splits)
    for scene in scenes:
        rng = child(seed, dataset, scene.image_id)
        split = next(test_splits) if scene.split == "test2015" else scene.split.removesuffix("2014")
        for number, thing in enumerate(scene.things):
            if phrases := refer(style, scene, thing, rng):
                sentences = [_sentence(phrase, next(sentence_ids), rng) for phrase in phrases]
                refs.append(_ref(scene, number, split, len(refs), sentences))
    return refs


def _sentence(phrase: str, sent_id: int, rng: np.random.Generator) -> dict[str, Any]:
    raw = phrase.capitalize() + ("." if rng.random() < 0.3 else "")
    return {"tokens": phrase.split(), "raw": raw, "sent_id": sent_id, "sent": phrase}


def _ref(scene: Scene, number: int, split: str, ref_id: int, sentences: list[dict[str, Any]]) -> dict[str, Any]:
    annotation = _annotation(scene, number)
    ids = {"ref_id": ref_id, "ann_id": annotation["id"], "image_id": scene.image_id}
    name = scene.coco_name("train2014").replace(".jpg", f"_{annotation['id']}.jpg")
    texts = {"file_name": name, "sentences": sentences, "sent_ids": [each["sent_id"] for each in sentences]}
    return {**ids, **texts, "split": split, "category_id": annotation["category_id"]}


def _instances(scenes: list[Scene]) -> dict[str, Any]:
    """Return COCO's `instances.json` for the scenes: one annotation per thing, one category per shape."""
    return {
        "info": INFO,
        "licenses": [{"id": 1, **LICENSE}],
        "images": [_image(scene) for scene in scenes],
        "annotations": [_annotation(scene, number) for scene in scenes for number in range(len(scene.things))],
        "categories": [{"supercategory": "thing", "id": i, "name": shape} for i, shape in enumerate(SHAPES, 1)],
    }


def _image(scene: Scene) -> dict[str, Any]:
    size = {"height": scene.height, "width": scene.width}
    return {"license": 1, "file_name": scene.coco_name("train2014"), **size, "id": scene.image_id}


def _annotation(scene: Scene, number: int) -> dict[str, Any]:
    thing = scene.things[number]
    x1, y1, x2, y2 = thing.box
    shape = {"segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]], "area": round(thing.area, 2), "iscrowd": 0}
    bbox = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]  # x, y, width, height
    ids = {"id": scene.image_id * 10 + number, "category_id": SHAPES.index(thing.shape) + 1}
    return {**shape, "bbox": bbox, "image_id": scene.image_id, **ids}
