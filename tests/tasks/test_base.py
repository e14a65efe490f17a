"""What all tasks have in common: how they are found, their settings, their words for weights that do not fit."""

import pytest

from mmnas.config import load_config
from mmnas.errors import ConfigError
from mmnas.tasks import TASKS, task_named
from mmnas.tasks.base import Task


def task(name):
    kind = task_named(name)
    return kind(kind.settle(load_config(name, "tiny", split=kind.splits[0], version="test")))


def test_every_task_is_found_by_its_name():
    assert set(TASKS) == {"vqa", "vgd", "itm"}
    for name in TASKS:
        assert issubclass(task_named(name), Task) and task_named(name).name == name
    with pytest.raises(ConfigError, match="unknown task 'vqaa'; did you mean vqa"):
        task_named("vqaa")


@pytest.mark.parametrize("name", TASKS)
def test_flags_set_keys_whose_choices_are_checked(name):
    kind = task_named(name)
    assert set(kind.flags.values()) == set(kind.choices)
    for key in kind.choices:
        with pytest.raises(ConfigError, match=f"{key} 'none' is unknown"):
            kind.settle(load_config(name, "tiny", split="train", version="x", overrides={key: "none"}))


@pytest.mark.parametrize(
    ("name", "parameter", "found", "expected", "explained"),
    [
        ("vqa", "embedding.weight", (5, 300), (6, 300), "5 words, the data gives 6: put the texts of all splits"),
        ("vqa", "head.classifier.weight", (7, 8), (9, 8), "7 answers, the data gives 9: put the annotation files"),
        ("vgd", "region_stem.linear.weight", (4, 2048), (4, 3072), "2048 wide, these are 3072"),
        ("vgd", "region_stem.linear.weight", (4, 2048), (4, 3072), "--FEAT=coco_mrcn"),
        ("itm", "region_stem.linear.weight", (4, 2048), (4, 1024), "--FEAT_PATH"),
        ("itm", "head.classifier.weight", (7, 8), (9, 8), None),
        ("vqa", "embedding.weight", (5, 300), (5, 200), None),
    ],
)
def test_weights_of_another_shape_are_explained(name, parameter, found, expected, explained):
    words = task(name).explain_misfit(parameter, found, expected)
    assert words is None if explained is None else words.startswith("it was trained with ") and explained in words
