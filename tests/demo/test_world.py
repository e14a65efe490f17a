"""The demo world as a whole: its scenes and splits, that it repeats, and what it refuses to write into."""

from collections import Counter

import numpy as np
import pytest
from reading_demo_world import DATA_SETS, annotations, caption_ids, hashes, load, questions, refs

from mmnas.boxes import pairwise_iou
from mmnas.demo.captions import flickr_splits
from mmnas.demo.scenes import draw_scenes
from mmnas.demo.world import write_world
from mmnas.errors import ConfigError


def test_scenes_are_split_three_to_one_to_one_and_never_repeat():
    scenes = draw_scenes(100, 0)
    assert Counter(scene.split for scene in scenes) == {"train2014": 60, "val2014": 20, "test2015": 20}
    assert len({scene.image_id for scene in scenes}) == 100
    assert len({scene.things for scene in scenes}) == 100


def test_things_lie_inside_their_scene_apart_from_one_another(scenes):
    for scene in scenes.values():
        boxes = np.array([thing.box for thing in scene.things])
        assert 3 <= len(boxes) <= 6
        assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= 0
        assert (boxes[:, 2:] <= [scene.width - 1, scene.height - 1]).all()
        overlaps = pairwise_iou(boxes, boxes) - np.eye(len(boxes))
        assert overlaps.max() <= 0.05 + 1e-6


def test_every_task_keeps_a_scene_in_its_split(world, scenes):
    train, val, test = "train2014", "val2014", "test2015"
    ids = {split: {i for i, scene in scenes.items() if scene.split == split} for split in (train, val, test)}
    for split, wanted in ids.items():
        asked = questions(world, f"v2_OpenEnded_mscoco_{split}").values()
        names = [path.name for path in (world / "coco_extract" / split).iterdir()]
        assert {row["image_id"] for row in asked} == wanted
        assert set(names) == {f"COCO_{split}_{image_id:012d}.jpg.npz" for image_id in wanted}
    assert {row["image_id"] for row in questions(world, "VG").values()} == ids[train]
    split_of = {"train": train, "val": val, "testA": test, "testB": test, "test": test}
    for dataset, by in DATA_SETS.items():
        absent = {"test"} if by == "unc" else {"testA", "testB"}
        assert {ref["split"] for ref in refs(world, dataset)} == set(split_of) - absent
        assert all(ref["image_id"] in ids[split_of[ref["split"]]] for ref in refs(world, dataset))
    coco = {split: set(caption_ids(world, "coco_precomp", split)) for split in ("train", "dev", "testall")}
    assert coco["train"] == ids[train]
    assert coco["dev"] | coco["testall"] == ids[val] and not coco["dev"] & coco["testall"]


def test_enough_flickr_images_are_scored_in_a_world_of_the_default_size():
    splits = flickr_splits(draw_scenes(400, 0))
    assert {split: len(scenes) for split, scenes in splits.items()} == {"train": 240, "dev": 40, "test": 120}


def test_counts_sum_up_what_is_on_the_disk(counts_and_world):
    counts, world = counts_and_world
    assert counts["images"] == 30 == len(list(world.glob("coco_extract/*/*")))
    assert counts["val2014 questions"] == len(annotations(world, "v2_mscoco_val2014"))
    expressions = [sentence for ref in refs(world, "refcocog") for sentence in ref["sentences"]]
    assert counts["refcocog expressions"] == len(expressions)
    assert counts["Flickr30K captions"] == 5 * 30
    assert load(world / "world.json")["counts"] == counts


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        write_world(tmp_path / name, 20, seed)
    one, two, other = (hashes(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() != other.keys()
    texts = [name for name in one.keys() & other.keys() if name.startswith(("vqa", "refs"))]
    assert len(texts) == 14 and all(one[name] != other[name] for name in texts)


def test_a_complete_world_stays_and_a_half_written_one_is_replaced(tmp_path, monkeypatch):
    counts = write_world(tmp_path, 20, 1)
    before = hashes(tmp_path)
    questions_file = tmp_path / "vqa" / "VG_questions.json"
    times = questions_file.stat().st_mtime_ns
    assert write_world(tmp_path, 20, 1) == counts
    assert questions_file.stat().st_mtime_ns == times
    for seed in (2, 1):  # the second time, the mark names the very world that is asked for
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("mmnas.demo.world.write_vectors", interrupt)
            write_world(tmp_path, 20, seed)
    questions_file.write_text("{")
    write_world(tmp_path, 20, 1)
    assert hashes(tmp_path) == before


def interrupt(*_):
    raise KeyboardInterrupt


def test_only_an_empty_place_or_a_demo_world_is_written_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty and not a demo world"):
        write_world(tmp_path, 20)
    (tmp_path / "world.json").write_text('["no", "mark"]')
    with pytest.raises(ConfigError, match="not empty and not a demo world"):
        write_world(tmp_path, 20)
    with pytest.raises(ConfigError, match="this is a file"):
        write_world(tmp_path / "thesis.tex", 20)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("images", "seed", "message"), [(19, 0, "at least 20"), (10**30, 0, "at most 100000"), (20, -1, "0 or more")]
)
def test_too_few_or_many_images_and_a_negative_seed_are_refused(tmp_path, images, seed, message):
    with pytest.raises(ConfigError, match=message):
        write_world(tmp_path / "data", images, seed)
    assert not (tmp_path / "data").exists()
