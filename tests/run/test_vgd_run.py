"""Grounding from the command line: train, val, test, and what each leaves on the disk."""

import json
import shutil

import numpy as np
import pytest
import torch

import mmnas
from mmnas.boxes import pairwise_iou
from mmnas.data.sources import grounding_features
from mmnas.demo.demos import demo
from mmnas.engine.checkpoint import load_checkpoint
from mmnas.models.published import our_name
from tests.conftest import ROOT, Workplace
from tests.places import require_expressions


@pytest.fixture
def place(tmp_path, world):
    return Workplace(tmp_path, world, "vgd")


def base(grounded: Workplace, name: str = "epoch2.pkl") -> str:
    return f"--CKPT_PATH={grounded.checkpoint('base', name)}"


def test_training_scores_val_and_leaves_checkpoints(grounded):
    assert grounded.checkpoint("base", "epoch1.pkl").is_file()
    assert "val  accuracy" in (grounded.folder / "logs/log/log_run_base.txt").read_text()
    checkpoint = load_checkpoint(grounded.checkpoint("base", "epoch2.pkl"))
    assert checkpoint.history[1]["loss"] < checkpoint.history[0]["loss"]
    assert set(checkpoint.history[1]["metrics"]) == {"accuracy", "oracle"}
    assert set(checkpoint.vocabularies) == {"tokens"}
    data = checkpoint.config["data"]
    assert (data["dataset"], data["feature_kind"]) == ("refcoco", "vg_woref")


def test_val_writes_records_metrics_and_provenance(grounded, place, run):
    done = run(place, "--RUN=val", base(grounded), "--VERSION=mine")
    assert done.code == 0, done.output
    expressions = require_expressions(place.data, "refcoco", "val")
    rows = place.result("val", "mine")
    assert [row["sent_id"] for row in rows] == [each.sent_id for each in expressions]
    for row, expression in zip(rows, expressions, strict=True):
        assert set(row) == {"image_id", "ref_id", "sent_id", "tokens", "box", "score", "iou", "best"}
        assert (row["image_id"], row["tokens"]) == (expression.image_id, expression.tokens)
        assert row["iou"] == pytest.approx(float(pairwise_iou([row["box"]], [expression.box])[0, 0]), abs=1e-5)
        assert row["best"][0] == {"box": row["box"], "score": row["score"]} and 1 < len(row["best"]) <= 5
    metrics, meta = (place.result("val", "mine", kind) for kind in ("metrics.json", "meta.json"))
    assert metrics["accuracy"] == pytest.approx(100 * np.mean([row["iou"] >= 0.5 for row in rows]))
    assert metrics["random_region"] < 15 < metrics["accuracy"] and metrics["oracle"] == 100
    assert meta["summary"] == {"accuracy": metrics["accuracy"], "oracle": metrics["oracle"]}
    history = load_checkpoint(grounded.checkpoint("base", "epoch2.pkl")).history
    assert history[1]["metrics"] == meta["summary"]  # what training saw is what scoring sees


def test_test_scores_every_test_split(grounded, place, run):
    done = run(place, "--RUN=test", base(grounded), "--VERSION=mine")
    assert done.code == 0
    for split in ("testA", "testB"):
        expressions = require_expressions(place.data, "refcoco", split)
        assert [row["sent_id"] for row in place.result("test", f"mine_{split}")] == [e.sent_id for e in expressions]
        accuracy = place.result("test", f"mine_{split}", "metrics.json")["accuracy"]
        assert f"{split:<8}accuracy     {accuracy:6.2f}" in done.output
        assert place.result("test", f"mine_{split}", "meta.json")["scored_on"] == split
    assert done.output.count("oracle") == 2


def test_two_processes_score_exactly_as_one(grounded, place, run):
    flags = ["--RUN=val", base(grounded), "--BS=20"]
    assert run(place, *flags, "--VERSION=one").code == 0
    process = place.script(*flags, "--VERSION=two", "--GPU=cpu, cpu")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    for kind in ("json", "metrics.json"):
        assert place.result("val", "two", kind) == place.result("val", "one", kind)


def test_a_resumed_run_equals_an_uninterrupted_one(grounded, place, run):
    flags = ["--RUN=train", "--RESUME", base(grounded, "epoch1.pkl"), "--VERSION=again"]
    assert run(place, *flags).code == 0
    whole = load_checkpoint(grounded.checkpoint("base", "epoch2.pkl"))
    again = load_checkpoint(place.checkpoint("again", "epoch2.pkl"))
    assert again.history == whole.history
    assert all(torch.equal(value, again.model[name]) for name, value in whole.model.items())


@pytest.mark.parametrize(
    ("flags", "width", "splits"),
    [
        (["--DATASET=refcoco+", "--FEAT=coco_mrcn", "--LOSS=bce", "--PRECISION=bf16"], 3072, ("_testA", "_testB")),
        (["--DATASET=refcocog", "--SPLIT=train+val"], 2048, ("",)),
    ],
)
def test_data_sets_features_and_losses(place, run, flags, width, splits):
    start = place.train_flags("other", "--MAX_EPOCH=1", *flags)
    assert run(place, *start).code == 0
    checkpoint = load_checkpoint(place.checkpoint("other", "epoch1.pkl"))
    assert checkpoint.model["region_stem.linear.weight"].shape[1] == width
    assert bool(checkpoint.history[0]["metrics"]) == ("--SPLIT=train+val" not in flags)
    done = run(place, "--RUN=test", "--VERSION=other")
    assert done.code == 0, done.output
    for split in splits:
        assert place.result("test", f"other{split}", "metrics.json")["oracle"] == 100


def test_accumulation_takes_the_same_steps(place, run):
    settings = place.folder / "small.yml"
    settings.write_text(settings.read_text().replace("16}", "16, dropout: 0}"))
    assert run(place, *place.train_flags("parts", "--MAX_EPOCH=1", "--ACCU=3")).code == 0
    assert run(place, *place.train_flags("whole", "--MAX_EPOCH=1")).code == 0
    parts, whole = (load_checkpoint(place.checkpoint(name, "epoch1.pkl")) for name in ("parts", "whole"))
    assert parts.history[0]["loss"] == pytest.approx(whole.history[0]["loss"], rel=1e-4)


def test_fine_tuning_keeps_vocabulary_and_data_set(grounded, place, run):
    done = run(place, "--RUN=train", base(grounded), "--VERSION=tuned", "--MAX_EPOCH=1", "--GPU=cpu")
    assert done.code == 0, done.output
    old = load_checkpoint(grounded.checkpoint("base", "epoch2.pkl"))
    new = load_checkpoint(place.checkpoint("tuned", "epoch1.pkl"))
    assert new.vocabularies == old.vocabularies and new.config["data"] == old.config["data"]


def test_released_weights_score(place, run):
    """A released checkpoint that fits the demo world: a tiny network under its published names."""
    genotype = ROOT / "logs/ckpts/arch/train_vgd.json"
    flags = ["--MODEL=tiny", f"--CFG={place.folder}/small.yml", f"--GENO_PATH={genotype}", "--GPU=cpu"]
    assert run(place, "--RUN=train", "--MAX_EPOCH=1", "--VERSION=own", *flags).code == 0
    own = load_checkpoint(place.checkpoint("own", "epoch1.pkl")).model
    names = json.loads((ROOT / "tests/parity/vgd.json").read_text())["state_dict_shapes"]
    path = place.folder / "epoch13.pkl"
    state = {f"module.{name}": own[our_name(name)] for name in names}
    torch.save({"state_dict": state, "net_optim": {}, "epoch": 13}, path)
    assert run(place, "--RUN=test", f"--CKPT_PATH={path}", *flags, "--VERSION=released").code == 0
    assert run(place, "--RUN=test", "--VERSION=own").code == 0
    for split in ("testA", "testB"):
        assert place.result("test", f"released_{split}") == place.result("test", f"own_{split}")


def test_features_may_lie_elsewhere(grounded, place, run, tmp_path):
    data = tmp_path / "apart"
    data.mkdir()
    (data / "refs").symlink_to(place.data / "refs")
    flags = ["--RUN=val", base(grounded), "--VERSION=apart", f"--DATA_PATH={data}"]
    for root in ("vgd_coco/fix100", "vgd_coco/fix100/refcoco_unc"):
        assert run(place, *flags, f"--FEAT_PATH={place.data}/{root}").code == 0


def test_load_gives_a_model_to_call_on_arrays(grounded, place, run):
    model = mmnas.load(grounded.checkpoint("base", "epoch2.pkl"))
    expressions = require_expressions(place.data, "refcoco", "val")[:7]
    source = grounding_features(place.data, None, "refcoco", "vg_woref", 2048)
    images = [source[expression.image_id] for expression in expressions]
    arrays = [[getattr(image, name) for image in images] for name in ("features", "boxes", "image_size")]
    texts = [" ".join(expression.tokens) for expression in expressions]
    scores, offsets = model(texts, *arrays)
    assert scores.shape == (7, 24) and offsets.shape == (7, 24, 4)
    records = model.predict(images, texts)
    assert run(place, "--RUN=val", base(grounded), "--VERSION=mine").code == 0
    for record, row in zip(records, place.result("val", "mine"), strict=False):
        np.testing.assert_allclose(record.box, row["box"], atol=1e-2)


def test_unknown_and_missing_words_work(grounded, place, run, tmp_path):
    data = tmp_path / "odd"
    data.mkdir()
    shutil.copytree(place.data / "refs", data / "refs")
    (data / "vgd_coco").symlink_to(place.data / "vgd_coco")
    entry = {"ref_id": 0, "sent_id": 0, "image_id": require_expressions(data, "refcoco", "val")[0].image_id}
    texts = [[], ["unheard"], ["is"] * 60]
    entries = [{**entry, "tokens": tokens, "bbox": [1, 2, 3, 4]} for tokens in texts]
    (data / "refs/refcoco/val.json").write_text(json.dumps(entries))
    assert run(place, "--RUN=val", base(grounded), "--VERSION=odd", f"--DATA_PATH={data}").code == 0
    assert [row["tokens"] for row in place.result("val", "odd")] == texts


@pytest.mark.slow
def test_demo_ends_with_its_table(tmp_path, monkeypatch, place, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert demo("vgd", images=40, flags=[*place.settings, "--MAX_EPOCH=1"]) == 0
    shown = capfd.readouterr().out
    table = shown[shown.index("grounding accuracy on") :]
    for row in ("model    oracle    random", "testA", "testB", "checkpoint: logs", "results:    logs"):
        assert row in table
