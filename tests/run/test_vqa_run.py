"""VQA from the command line: train, val, test, and what each leaves on the disk."""

import json
import shutil

import numpy as np
import pytest
import torch

import mmnas
from mmnas.data.features import NpzFolders
from mmnas.data.vqa_json import read_questions
from mmnas.engine.checkpoint import load_checkpoint
from mmnas.models.published import our_name
from tests.conftest import ROOT, Workplace
from tests.places import require_questions


def base(trained: Workplace, name: str = "epoch2.pkl") -> str:
    return f"--CKPT_PATH={trained.checkpoint('base', name)}"


def test_training_leaves_checkpoints_log_and_events(trained):
    assert [path.name for path in sorted(trained.checkpoint("base", "x").parent.glob("*.pkl"))] == [
        "epoch1.pkl",
        "epoch2.pkl",
    ]
    log = (trained.folder / "logs/log/log_run_base.txt").read_text()
    assert "epoch 2: loss" in log and "val  overall" in log
    assert list((trained.folder / "logs/tensorboard/base").glob("events*"))


def test_checkpoint_is_self_contained_and_of_plain_types(trained):
    checkpoint = load_checkpoint(trained.checkpoint("base", "epoch2.pkl"))
    assert checkpoint.vocabularies["tokens"][:3] == ["PAD", "UNK", "CLS"]
    assert checkpoint.config["training"]["epochs"] == 2
    assert [entry["epoch"] for entry in checkpoint.history] == [1, 2]
    assert checkpoint.history[1]["loss"] < checkpoint.history[0]["loss"]


def test_val_writes_predictions_both_metrics_and_provenance(trained, place, run):
    done = run(place, "--RUN=val", base(trained), "--VERSION=mine")
    assert done.code == 0
    assert "overall" in done.output and "result_run_mine.json" in done.output
    questions = read_questions(require_questions(place.data, "val"))
    assert [row["question_id"] for row in place.result("val", "mine")] == [each.question_id for each in questions]
    metrics = place.result("val", "mine", "metrics.json")
    meta = place.result("val", "mine", "meta.json")
    assert set(metrics) == {"official", "published"}
    assert meta["summary"]["overall"] == metrics["official"]["overall"]
    assert (meta["trained_on"], meta["scored_on"], meta["scored_split_was_trained_on"]) == ("train", "val", False)
    assert meta["counts"]["predictions"] == len(questions)
    history = load_checkpoint(trained.checkpoint("base", "epoch2.pkl")).history
    assert history[1]["metrics"] == meta["summary"]  # what training saw is what scoring sees


def test_test_answers_every_question_exactly_once(trained, place, run):
    assert run(place, "--RUN=test", base(trained), "--VERSION=mine").code == 0
    rows = place.result("test", "mine")
    questions = read_questions(require_questions(place.data, "test"))
    assert sorted(row["question_id"] for row in rows) == sorted(each.question_id for each in questions)
    answers = load_checkpoint(trained.checkpoint("base", "epoch2.pkl")).vocabularies["answers"]
    assert all(set(row) == {"answer", "question_id"} and row["answer"] in answers for row in rows)


def test_the_newest_checkpoint_of_a_version_is_scored(trained, run):
    done = run(trained, "--RUN=val", "--VERSION=base")
    assert done.code == 0
    assert "epoch2.pkl" in done.output


def test_full_split_trains_on_all_and_scores_nothing_unless_asked(place, run):
    done = run(place, "--RUN=train", *place.settings, "--MAX_EPOCH=1", "--VERSION=full")
    assert done.code == 0
    assert "val" not in done.output.split("epoch 1: loss")[1].splitlines()[0]
    assert load_checkpoint(place.checkpoint("full", "epoch1.pkl")).config["split"] == "train+val+vg"
    done = run(place, "--RUN=val", "--VERSION=full")
    assert "trained on" in done.output
    assert place.result("val", "full", "meta.json")["scored_split_was_trained_on"] is True


def test_the_newest_two_and_the_best_are_kept(place, run):
    assert run(place, *place.train_flags("kept", "--MAX_EPOCH=5")).code == 0
    folder = place.checkpoint("kept", "x").parent
    history = load_checkpoint(folder / "epoch5.pkl").history
    overall = [entry["metrics"]["overall"] for entry in history]
    best = overall.index(max(overall)) + 1
    assert {path.name for path in folder.glob("*.pkl")} == {f"epoch{epoch}.pkl" for epoch in {best, 4, 5}}


def test_a_version_is_not_trained_over(trained, run):
    before = trained.checkpoint("base", "epoch2.pkl").read_bytes()
    done = run(trained, *trained.train_flags("base"))
    assert done.code == 2
    assert "--RESUME" in done.output
    assert trained.checkpoint("base", "epoch2.pkl").read_bytes() == before


def test_accumulation_takes_the_same_steps(trained, place, run):
    flags = place.train_flags("parts", "--MAX_EPOCH=1", "--ACCU=3")
    (place.folder / "small.yml").write_text(
        (place.folder / "small.yml").read_text().replace("16}", "16, dropout: 0}")
    )
    assert run(place, *flags).code == 0
    assert run(place, *place.train_flags("whole", "--MAX_EPOCH=1")).code == 0
    parts, whole = (load_checkpoint(place.checkpoint(name, "epoch1.pkl")).history[0] for name in ("parts", "whole"))
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_bf16_trains(place, run):
    assert run(place, *place.train_flags("half", "--MAX_EPOCH=1", "--PRECISION=bf16")).code == 0
    assert np.isfinite(load_checkpoint(place.checkpoint("half", "epoch1.pkl")).history[0]["loss"])


def test_fine_tuning_starts_from_the_weights_and_keeps_the_vocabulary(trained, place, run):
    done = run(
        place, "--RUN=train", "--SPLIT=train", base(trained), "--VERSION=tuned", "--MAX_EPOCH=1", "--GPU=cpu"
    )
    assert done.code == 0
    old, new = (
        load_checkpoint(trained.checkpoint("base", "epoch2.pkl")),
        load_checkpoint(place.checkpoint("tuned", "epoch1.pkl")),
    )
    assert new.vocabularies == old.vocabularies and new.genotype == old.genotype
    assert new.history[0]["loss"] < old.history[1]["loss"]


def test_the_best_and_the_last_checkpoint_have_names(place, run):
    done = run(place, *place.train_flags("named", "--MAX_EPOCH=3", "--KEEP_ALL"))
    history = load_checkpoint(place.checkpoint("named", "epoch3.pkl")).history
    scores = [row["metrics"]["overall"] for row in history]
    best = scores.index(max(scores)) + 1
    assert f"best on val: epoch {best}, overall {max(scores):.2f}" in done.output.splitlines()[-1]
    for name, epoch in (("best", best), ("last", 3)):
        assert run(place, "--RUN=val", "--VERSION=named", f"--CKPT_PATH={name}", "--GPU=cpu").code == 0
        assert place.result("val", "named", "meta.json")["checkpoint"].endswith(f"epoch{epoch}.pkl")
    done = run(place, "--RUN=train", "--VERSION=other", "--CKPT_PATH=best", "--GPU=cpu")
    assert done.code == 2 and "name the file to fine-tune" in done.output


def test_the_later_published_layout_is_found(trained, place, run, tmp_path):
    data = tmp_path / "later"
    shutil.copytree(place.data / "vqa", data / "vqa" / "annotations")
    (data / "vqa" / "bua-r101-max100").symlink_to(place.data / "coco_extract")
    done = run(place, "--RUN=val", base(trained), "--VERSION=later", f"--DATA_PATH={data}")
    assert done.code == 0, done.output
    assert place.result("val", "later", "meta.json")["summary"]["overall"] > 0


def test_features_may_lie_elsewhere(trained, place, run, tmp_path):
    data = tmp_path / "apart"
    data.mkdir()
    (data / "vqa").symlink_to(place.data / "vqa")
    flags = ["--RUN=val", base(trained), "--VERSION=apart", f"--DATA_PATH={data}"]
    assert run(place, *flags, f"--FEAT_PATH={place.data}/coco_extract").code == 0


@pytest.fixture
def released(place, run):
    """A released checkpoint that fits the demo world: a tiny VQA network under its published names."""
    genotype = ROOT / "logs/ckpts/arch/train_vqa.json"
    flags = ["--MODEL=tiny", f"--CFG={place.folder}/small.yml", f"--GENO_PATH={genotype}", "--GPU=cpu"]
    assert run(place, "--RUN=train", "--SPLIT=train", "--MAX_EPOCH=1", "--VERSION=own", *flags).code == 0
    own = load_checkpoint(place.checkpoint("own", "epoch1.pkl")).model
    names = json.loads((ROOT / "tests/parity/vqa.json").read_text())["state_dict_shapes"]
    path = place.folder / "epoch13.pkl"
    state = {f"module.{name}": own[our_name(name)] for name in names}
    torch.save({"state_dict": state, "net_optim": {}, "epoch": 13}, path)
    return path, flags


def test_released_weights_score_test_and_train(place, run, released):
    path, flags = released
    assert run(place, "--RUN=val", f"--CKPT_PATH={path}", *flags, "--VERSION=released").code == 0
    assert run(place, "--RUN=val", "--VERSION=own").code == 0
    assert place.result("val", "released") == place.result("val", "own")
    assert run(place, "--RUN=test", f"--CKPT_PATH={path}", *flags).code == 0
    assert place.result("test", "epoch13")
    for split, version in (("val", "released"), ("test", "epoch13")):
        meta = place.result(split, version, "meta.json")
        assert meta["scored_split_was_trained_on"] == meta["trained_on"] == "unknown"
    tuned = run(
        place, "--RUN=train", "--SPLIT=train", "--MAX_EPOCH=1", f"--CKPT_PATH={path}", *flags, "--VERSION=tuned"
    )
    assert tuned.code == 0, tuned.output
    assert "val may have been trained on (--SPLIT=train, unknown)" in tuned.output
    assert load_checkpoint(place.checkpoint("tuned", "epoch1.pkl")).seen_splits == ["train", "unknown"]


def test_load_gives_a_model_to_call_on_arrays(trained, place, run):
    model = mmnas.load(trained.checkpoint("base", "epoch2.pkl"))
    questions = read_questions(require_questions(place.data, "val"))[:7]
    source = NpzFolders([place.data / "coco_extract" / "val2014"], 2048)
    images = [source[question.image_id] for question in questions]
    arrays = [[getattr(image, name) for image in images] for name in ("features", "boxes", "image_size")]
    texts = [question.text for question in questions]
    logits = model(texts, *arrays)
    assert logits.shape == (7, len(model.vocabularies["answers"]))
    answers = [each.answers[0][0] for each in model.predict(images, texts)]
    assert run(place, "--RUN=val", base(trained), "--VERSION=mine").code == 0
    assert answers == [row["answer"] for row in place.result("val", "mine")[:7]]
    assert "red" in model.vocabulary.words and model.genotype.uses_relation
    with pytest.raises(ValueError, match="expected"):
        model(["?"], [np.zeros((3, 5))], [np.zeros((3, 4))], [(480, 640)])


def test_an_empty_question_and_a_long_one_work(trained, place, run, tmp_path):
    data = tmp_path / "odd"
    shutil.copytree(place.data / "vqa", data / "vqa")
    (data / "coco_extract").symlink_to(place.data / "coco_extract")
    path = require_questions(data, "test")
    content = json.loads(path.read_text())
    content["questions"][0]["question"] = "?"
    content["questions"][1]["question"] = "is " * 60
    path.write_text(json.dumps(content))
    assert run(place, "--RUN=test", base(trained), "--VERSION=odd", f"--DATA_PATH={data}").code == 0
    assert len(place.result("test", "odd")) == len(content["questions"])
