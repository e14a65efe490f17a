"""What all tasks have in common: how they are found, their settings, their words for weights that do not fit."""

import pytest
import torch

from mmnas.config import load_config
from mmnas.errors import ConfigError, DataError
from mmnas.tasks import TASKS, task_named
from mmnas.tasks.base import Task


def task(name, **overrides):
    kind = task_named(name)
    return kind(kind.settle(load_config(name, "tiny", split=kind.splits[0], version="test", overrides=overrides)))


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


@pytest.mark.parametrize("name", TASKS)
def test_rates_of_unknown_splits_are_errors(name):
    valid = task_named(name).splits
    assert task(name, **{"training.split_base_lr": {valid[-1]: 0.5}}).config.training.split_base_lr
    with pytest.raises(ConfigError, match=r"training\.split_base_lr.* 'trainn' is unknown; did you mean train"):
        task(name, **{"training.split_base_lr": {valid[-1]: 0.5, "trainn": 0.1}})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("name", "output"), [("vqa", 0), ("itm", 0), ("vgd", 0), ("vgd", 1)])
def test_numbers_that_are_not_finite_are_never_a_prediction(name, output, value):
    """Whichever of the network's numbers it is, of whichever sample."""
    made = task(name)
    made.vocabularies, made.weights = {"answers": ["yes", "no", "red"]}, "run/epoch7.pkl"
    boxes, sizes = torch.tensor([0.0, 0.0, 9.0, 9.0]).repeat(2, 3, 1), torch.full((2, 2), 20.0)
    batch = {"index": torch.tensor([30, 31]), "boxes": boxes, "image_sizes": sizes}
    batch["region_mask"] = torch.ones(2, 3, dtype=torch.bool)
    outputs = {
        "vqa": [torch.zeros(2, 3)],
        "itm": [torch.zeros(2, 1)],
        "vgd": [torch.zeros(2, 3), torch.zeros(2, 3, 4)],
    }
    outputs = outputs[name]

    def model(batch):
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    assert [record["index"] for record in made.predict(model, batch)] == [30, 31]
    for place in (0, -1):
        outputs[output][1].view(-1)[place] = value
        with pytest.raises(DataError, match=r"run/epoch7.pkl gives NaN or infinite numbers for sample 31"):
            made.predict(model, batch)
        outputs[output][1].view(-1)[place] = 0


def test_boxes_that_overflow_are_never_a_prediction():
    made = task("vgd")
    boxes = torch.tensor([0.0, 0.0, 99.0, 99.0]).repeat(1, 1, 1)
    batch = {"index": torch.tensor([0]), "boxes": boxes, "image_sizes": torch.full((1, 2), 200.0)}
    batch["region_mask"] = torch.ones(1, 1, dtype=torch.bool)
    offsets = torch.tensor([[[3e38, 0.0, 3e38, 0.0]]])  # finite, but an infinite width and center
    with pytest.raises(DataError, match="NaN or infinite"):
        made.predict(lambda _: (torch.zeros(1, 1), offsets), batch)
