"""The demo world's referring expressions: their structure, and that they single out what they name."""

import pickle

import numpy as np
from reading_demo_world import DATA_SETS, fitting, load, refs

from mmnas.demo.scenes import COLORS, SHAPES, SIZES

PLACES = ["left", "right", "top", "bottom", "above", "below", "leftmost", "rightmost", "highest", "lowest"]


def test_refs_have_the_published_structure_and_plain_types(world, scenes):
    for dataset, by in DATA_SETS.items():
        raw = (world / "refs" / dataset / f"refs({by}).p").read_bytes()
        assert raw[:2] == b"\x80\x02"  # pickle protocol 2
        found = pickle.loads(raw)
        assert all_types(found) <= {list, dict, str, int}
        instances = load(world / "refs" / dataset / "instances.json")
        assert {image["id"] for image in instances["images"]} == set(scenes)
        boxes = {row["id"]: row for row in instances["annotations"]}
        numbers = []
        for ref in found:
            x, y, w, h = boxes[ref["ann_id"]]["bbox"]
            boxes_of_scene = [thing.box for thing in scenes[ref["image_id"]].things]
            assert np.isclose(boxes_of_scene, (x, y, x + w, y + h), atol=0.011).all(axis=1).sum() == 1
            assert ref["category_id"] == boxes[ref["ann_id"]]["category_id"]
            assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
            numbers += ref["sent_ids"]
        assert numbers == list(range(len(numbers)))


def all_types(value) -> set[type]:
    if isinstance(value, dict):
        return {dict}.union(*map(all_types, [*value.keys(), *value.values()]))
    return {list}.union(*map(all_types, value)) if isinstance(value, list) else {type(value)}


def test_expressions_that_only_describe_fit_one_thing(world, scenes):
    plain = {"the", "this", "object", *SHAPES, *COLORS, *SIZES}
    checked = 0
    for ref in refs(world, "refcoco") + refs(world, "refcoco+"):
        scene = scenes[ref["image_id"]]
        for sentence in ref["sentences"]:
            if set(sentence["tokens"]) <= plain:
                (one,) = fitting(sentence["sent"], scene)
                assert one is scene.things[ref["ann_id"] % 10]
                checked += 1
    assert checked > 50


def test_each_data_set_refers_in_its_manner(world):
    lengths = {}
    for dataset in DATA_SETS:
        tokens = [sentence["tokens"] for ref in refs(world, dataset) for sentence in ref["sentences"]]
        share = np.mean([bool(set(PLACES) & set(sentence)) for sentence in tokens])
        assert share == 0 if dataset == "refcoco+" else share > 0.1
        lengths[dataset] = np.mean([len(sentence) for sentence in tokens])
    assert lengths["refcocog"] > lengths["refcoco+"] + 2
