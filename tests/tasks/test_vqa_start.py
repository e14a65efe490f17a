"""The start of a VQA run: each file is parsed once, and nothing of it is kept that no data set needs."""

import json
from collections import Counter

import numpy as np
import pytest

from mmnas.config import load_config
from mmnas.data import vqa_json
from mmnas.tasks.vqa import VQATask
from tests.places import annotation_places, question_places

ANSWERS = ["red"] * 7 + ["two", "2", "unknown"]


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task on three questions per split; `task.parsed` counts how often each file was parsed."""
    for number, split in enumerate(vqa_json.SPLITS):
        ids = [{"question_id": 10 * number + n, "image_id": 7} for n in range(3)]
        write(question_places(tmp_path, split)[0], "questions", ids, question=f"What is {split}?")
        for path in annotation_places(tmp_path, split)[:1]:
            answers = [{"answer": answer} for answer in ANSWERS]
            write(path, "annotations", ids[::-1], answers=answers, multiple_choice_answer="red")
    folder = tmp_path / "coco_extract" / "train2014"
    folder.mkdir(parents=True)
    arrays = {"x": np.ones((2, 2048), np.float32), "bbox": np.array([[0, 0, 5, 5]] * 2), "image_h": 9, "image_w": 9}
    np.savez(folder / "COCO_train2014_7.npz", **arrays)
    parsed = Counter()
    read_json = vqa_json.read_json

    def counting(path, *args, **kinds):
        parsed[path.name] += 1
        return read_json(path, *args, **kinds)

    monkeypatch.setattr(vqa_json, "read_json", counting)

    def make(split):
        overrides = {"paths.data": str(tmp_path), "data.answer_min_count": 2}
        made = VQATask(load_config("vqa", "tiny", split=split, version="x", overrides=overrides))
        made.parsed = parsed
        return made

    return make


def write(path, key, ids, **values):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({key: [{**entry, **values} for entry in ids]}))


@pytest.mark.parametrize("split", ["train", "train+val", "train+val+vg"])
def test_every_file_is_parsed_once(task, split):
    task = task(split)
    task.vocabularies = task.build_vocabularies()
    assert task.vocabularies["answers"] == ["red"]
    assert task.vocabularies["tokens"] == ["PAD", "UNK", "CLS", "what", "is", "train", "val", "test", "vg"]
    trained = task.training_set()
    assert len(trained) == 3 * len(split.split("+"))
    assert trained[0]["answer_scores"].tolist() == [1.0] and trained[0]["tokens"].tolist() == [3, 4, 5]
    if task.scores_val:
        assert len(task.evaluation_set("val")) == 3
    annotated = {f"v2_mscoco_{part}2014_annotations.json" for part in ("train", "val")}
    annotated |= {"VG_annotations.json"} if "vg" in split else set()
    assert {name: count for name, count in task.parsed.items() if "annotations" in name} == dict.fromkeys(
        annotated, 1
    )
    assert {count for name, count in task.parsed.items() if "questions" in name} == {1} and len(task.parsed) >= 6
    assert not task._parsed
