"""The grounding files of the world, per data set: `instances.json` and the pickled referring expressions."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.demo.expressions import STYLES, Style, refer
from mmnas.demo.region_files import coco_name
from mmnas.demo.scenes import SHAPES, Scene, Thing, child
from mmnas.files import replacing, write_json

_ANNOTATIONS_PER_IMAGE = 10  # ids: image times this, plus the thing's number


def write_refs_files(out: Path, scenes: list[Scene], seed: int) -> dict[str, list[str]]:
    """Write `refs/<dataset>` for the three data sets; return the expressions of each."""
    texts = {}
    for dataset, style in STYLES.items():
        refs = _refs(style, scenes, dataset, seed)
        folder = out / "refs" / dataset
        write_json(folder / "instances.json", _instances(scenes))
        _write_pickle(folder / f"refs({style.split_by}).p", refs)
        texts[f"{dataset} expressions"] = [row["sent"] for ref in refs for row in ref["sentences"]]
    return texts


def _refs(style: Style, scenes: list[Scene], dataset: str, seed: int) -> list[dict[str, Any]]:
    """Return one entry per thing that can be referred to, numbered through the data set."""
    refs: list[dict[str, Any]] = []
    sent_id = 0
    for scene, split in zip(scenes, _splits(style, scenes), strict=True):
        rng = child(seed, dataset, scene.image_id)
        for number, thing in enumerate(scene.things):
            phrases = refer(style, scene, thing, rng)
            if phrases:
                sentences = [_sentence(phrase, sent_id + i, rng) for i, phrase in enumerate(phrases)]
                refs.append(_ref(scene, number, split, len(refs), sentences))
                sent_id += len(sentences)
    return refs


def _splits(style: Style, scenes: list[Scene]) -> list[str]:
    """Return the split of each scene; the test scenes take turns where there are two test splits."""
    tests = 0
    splits = []
    for scene in scenes:
        if scene.split == "test2015":
            splits.append(style.test_splits[tests % len(style.test_splits)])
            tests += 1
        else:
            splits.append(scene.split.removesuffix("2014"))
    return splits


def _sentence(phrase: str, sent_id: int, rng: np.random.Generator) -> dict[str, Any]:
    raw = phrase.capitalize() + ("." if rng.random() < 0.3 else "")
    return {"tokens": phrase.split(), "raw": raw, "sent_id": sent_id, "sent": phrase}


def _ref(scene: Scene, number: int, split: str, ref_id: int, sentences: list[dict[str, Any]]) -> dict[str, Any]:
    ann_id = scene.image_id * _ANNOTATIONS_PER_IMAGE + number
    return {
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "file_name": coco_name(scene, "train2014").replace(".jpg", f"_{ann_id}.jpg"),
        "ann_id": ann_id,
        "ref_id": ref_id,
        "image_id": scene.image_id,
        "split": split,
        "sentences": sentences,
        "category_id": _category(scene.things[number]),
    }


def _category(thing: Thing) -> int:
    return SHAPES.index(thing.shape) + 1


def _instances(scenes: list[Scene]) -> dict[str, Any]:
    return {
        "info": {
            "description": "A demo world in the format of MS COCO 2014.",
            "version": "1.0",
            "year": 2014,
        },
        "licenses": [{"id": 1, "name": "Apache License 2.0", "url": "http://www.apache.org/licenses/LICENSE-2.0"}],
        "images": [
            {
                "license": 1,
                "file_name": coco_name(scene, "train2014"),
                "height": scene.height,
                "width": scene.width,
                "id": scene.image_id,
            }
            for scene in scenes
        ],
        "annotations": [
            _annotation(scene, number, thing) for scene in scenes for number, thing in enumerate(scene.things)
        ],
        "categories": [
            {"supercategory": "thing", "id": index, "name": shape} for index, shape in enumerate(SHAPES, start=1)
        ],
    }


def _annotation(scene: Scene, number: int, thing: Thing) -> dict[str, Any]:
    x1, y1, x2, y2 = thing.box
    return {
        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        "area": round(thing.area, 2),
        "iscrowd": 0,
        "image_id": scene.image_id,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "category_id": _category(thing),
        "id": scene.image_id * _ANNOTATIONS_PER_IMAGE + number,
    }


def _write_pickle(path: Path, refs: list[dict[str, Any]]) -> None:
    """Pickle `refs` as the published files are: protocol 2, plain containers, numbers and strings.

    By way of JSON, since a pickle also records which strings happen to be one object in memory.
    """
    plain = json.loads(json.dumps(refs))
    with replacing(path) as temporary:
        temporary.write_bytes(pickle.dumps(plain, protocol=2))
