"""Released weights become complete: with the words of their data they predict without it."""

import json
import shutil

import numpy as np
import pytest
import torch

import mmnas
from mmnas.__main__ import main
from mmnas.config import load_config
from mmnas.errors import CheckpointError
from mmnas.genotype import read_genotype
from mmnas.models.published import our_name
from mmnas.predict.networks import complete
from mmnas.tasks import TASKS, task_named
from tests.places import require_questions
from tests.stand_in import fixture


def write_released(path, task, data, **overrides):
    """Write an untrained network of a task's published genotype in the released form, for the words of `data`."""
    config = load_config(
        task, "tiny", split="train", version="own", overrides={**overrides, "paths.data": str(data)}
    )
    made = task_named(task)(task_named(task).settle(config))
    made.vocabularies = made.build_vocabularies()
    torch.manual_seed(0)
    own = made.build_model(read_genotype(f"train_{task}"), pretrained_words=False).state_dict()
    state = {f"module.{name}": own[our_name(name)] for name in fixture(task)["state_dict_shapes"]}
    torch.save({"state_dict": state, "net_optim": {}, "epoch": 13}, path)
    return path


@pytest.fixture
def released(place):
    return write_released(place.folder / "released.pkl", "vqa", place.data, **{"data.answer_min_count": 2})


def export(place, path, *flags):
    """Export with the words of the demo world; return the exit code."""
    (place.folder / "count.yml").write_text("data: {answer_min_count: 2}\n")
    common = [f"--vocabulary-from={place.data}", f"--cfg={place.folder}/count.yml"]
    return main(["export", str(path), str(place.folder / "out"), *common, *flags])


def test_exported_released_weights_predict_what_scoring_them_gives(place, run, released):
    assert export(place, released) == 0
    flags = ["--RUN=val", "--MODEL=tiny", "--GPU=cpu"]
    scored = run(place, *flags, f"--CKPT_PATH={released}", f"--CFG={place.folder}/count.yml", "--VERSION=released")
    assert scored.code == 0, scored.output
    assert run(place, "--RUN=val", "--GPU=cpu", f"--CKPT_PATH={place.folder}/out", "--VERSION=exported").code == 0
    assert place.result("val", "exported") == place.result("val", "released")
    meta = place.result("val", "exported", "meta.json")
    assert meta["trained_on"] == meta["scored_split_was_trained_on"] == "unknown"
    card = (place.folder / "out" / "README.md").read_text()
    assert "splits: unknown" in card and "none known" in card


@pytest.mark.parametrize("task", TASKS)
def test_the_task_and_the_size_are_told_from_the_weights(task, place):
    path = write_released(place.folder / "released.pkl", task, place.data)
    checkpoint = complete(path, place.data)
    assert (checkpoint.config["task"], checkpoint.config["size"]) == (task, "tiny")
    assert checkpoint.vocabularies["tokens"][:3] == ["PAD", "UNK", "CLS"]


def test_released_weights_are_loaded_with_the_words_of_their_data(place, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(place.data / "itm", data / "itm")  # no features are needed
    path = write_released(place.folder / "released.pkl", "itm", data)
    model = mmnas.load(path, vocabulary_from=data)
    image = next((place.data / "flickr_rois_resnet101_fix36").iterdir())
    words = [str(image), "--caption", "a red ball", "--ckpt", str(path), "--vocabulary-from", str(data)]
    assert main(["predict", *words]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == model.predict(image, "a red ball")[0].score
    shutil.rmtree(data)
    features, boxes = np.ones((3, 2048), np.float32), np.array([[0, 0, 9, 9]] * 3, np.float32)
    assert model(["a red ball"], [features], [boxes], [(10, 10)]).shape == (1, 1)


def test_without_their_data_the_remedy_is_said(released):
    with pytest.raises(CheckpointError, match=r"--vocabulary-from of `mmnas export`, or vocabulary_from of"):
        mmnas.load(released)


def test_words_of_other_data_are_explained(place, released, tmp_path, capsys):
    data = tmp_path / "fewer"
    shutil.copytree(place.data / "vqa", data / "vqa")
    for split in ("train", "val", "test"):
        path = require_questions(data, split)
        content = json.loads(path.read_text())
        for question in content["questions"]:
            question["question"] = "what?"
        path.write_text(json.dumps(content))
    assert export(place, released, f"--vocabulary-from={data}") == 2
    shown = capsys.readouterr().err
    assert "it was trained with 70 words, the data gives" in shown and "error:" in shown.splitlines()[-1]
    assert not (place.folder / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task=itm"], "it was trained with 70 words"),
        (["--size=small"], "is it of another --MODEL size?"),
        (["--geno-path=mcan"], "another --GENO_PATH?"),
        (["--dataset=coco"], "--DATASET=coco is unknown; valid ones: vqa2, custom"),
    ],
)
def test_what_does_not_fit_is_one_line(flags, message, place, released, capsys):
    assert export(place, released, *flags) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


def test_what_a_checkpoint_holds_is_not_given_again(trained, tmp_path, capsys):
    path = trained.checkpoint("base", "epoch2.pkl")
    for flag in ("--size=tiny", "--task=vqa", f"--vocabulary-from={trained.data}"):
        assert main(["export", str(path), str(tmp_path / "out"), flag]) == 2
        assert "leave out those for released weights" in capsys.readouterr().err
