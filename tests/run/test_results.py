"""What stands beside a result: where it comes from, and whether its split was trained on."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os

import numpy as np
import pytest
from msgspec import structs

from mmnas.engine.checkpoint import load_checkpoint, save_checkpoint
from mmnas.genotype import Genotype
from mmnas.run import results
from mmnas.run.cli import parse
from mmnas.run.plan import make_plan
from mmnas.run.results import genotype_hash, was_trained_on, write_result
from mmnas.tasks import task_named
from mmnas.tasks.base import Result
from tests.conftest import GENOTYPE

KEYS = {
    "task", "data_set", "protocol", "feature_kind", "size", "trained_on", "scored_on",
    "scored_split_was_trained_on", "summary", "checkpoint", "checkpoint_sha256", "epochs_trained",
    "training_processes", "training_versions", "genotype", "genotype_sha256", "seed", "precision", "processes",
    "counts", "config", "versions", "seen_splits", "files", "features", "training_features",
}  # fmt: skip
RESULT = Result([{"row": 1}, {"row": 2}], {"score": 12.5}, {"score": 12.5, "more": 1})


@pytest.fixture
def write(tmp_path, caplog):
    """Write RESULT as a run of `place` would; return metrics, provenance and what was logged."""

    def call(place, split, processes=1, trained_on="train"):
        checkpoint = place.checkpoint("base", "epoch2.pkl")
        task = task_named(place.task)
        run = "val" if split == "val" else "test"
        plan = make_plan(task, parse(task, [f"--RUN={run}", f"--CKPT_PATH={checkpoint}", "--VERSION=mine"]))
        paths = structs.replace(plan.config.paths, logs=str(tmp_path))
        config = structs.replace(plan.config, paths=paths, split=trained_on)
        content = structs.replace(plan.checkpoint, seen_splits=[trained_on])
        source = dataclasses.replace(plan.source, content=content)
        plan = dataclasses.replace(plan, config=config, source=source)
        caplog.set_level(logging.INFO, "mmnas")
        path = write_result(RESULT, task(config), plan, split, samples=2, processes=processes)
        files = (json.loads(path.with_suffix(f".{kind}.json").read_text()) for kind in ("metrics", "meta"))
        return (*files, caplog.messages)

    return call


def test_provenance_is_complete(write, trained):
    _, meta, _ = write(trained, "val", processes=3)
    assert set(meta) == KEYS
    checkpoint = trained.checkpoint("base", "epoch2.pkl")
    canonical = json.dumps(GENOTYPE, sort_keys=True, separators=(",", ":"))
    expected = {
        "task": "vqa", "data_set": "vqa", "protocol": None, "feature_kind": None, "size": "tiny",
        "trained_on": "train", "seen_splits": ["train"], "scored_on": "val", "scored_split_was_trained_on": False,
        "checkpoint": str(checkpoint), "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "epochs_trained": 2, "training_processes": 1, "training_versions": meta["versions"],
        "genotype": GENOTYPE, "genotype_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
        "seed": 0, "precision": "fp32", "processes": 3, "counts": {"samples": 2, "predictions": 2},
        "summary": {"score": 12.5},
    }  # fmt: skip
    assert {name: meta[name] for name in expected} == expected
    assert meta["config"]["version"] == "mine" and set(meta["versions"]) >= {"mmnas", "torch", "numpy", "python"}


@pytest.mark.parametrize(
    ("fixture", "split", "data_set", "protocol", "kind"),
    [("grounded", "testB", "refcoco", None, "vg_woref"), ("matched", "test", "flickr", "flickr1k", None)],
)
def test_data_set_protocol_and_features_of_the_other_tasks(
    write, request, fixture, split, data_set, protocol, kind
):
    _, meta, _ = write(request.getfixturevalue(fixture), split)
    assert set(meta) == KEYS
    assert (meta["data_set"], meta["protocol"], meta["feature_kind"]) == (data_set, protocol, kind)
    assert meta["scored_on"] == split


# Splits that were trained on


@pytest.mark.parametrize(
    ("fixture", "trained_on"), [("trained", "train+val"), ("trained", "train+val+vg"), ("grounded", "train+val")]
)
def test_a_split_that_was_trained_on_is_marked_everywhere(write, request, fixture, trained_on):
    metrics, meta, log = write(request.getfixturevalue(fixture), "val", trained_on=trained_on)
    assert meta["scored_split_was_trained_on"] is True and meta["trained_on"] == trained_on
    assert metrics == {"scored_split_was_trained_on": True, **RESULT.metrics}
    assert f"val was trained on (--SPLIT={trained_on}): this is no held-out score" in log
    assert "score         12.50  (trained on)" in log


@pytest.mark.parametrize(("split", "trained_on"), [("val", "train"), ("testA", "train+val")])
def test_a_held_out_split_is_not_marked(write, grounded, split, trained_on):
    metrics, meta, log = write(grounded, split, trained_on=trained_on)
    assert meta["scored_split_was_trained_on"] is False
    assert metrics == RESULT.metrics
    assert not any("trained on" in line for line in log)


@pytest.mark.parametrize(
    ("seen", "mark"),
    [
        (["train"], False),
        (["train", "train+val"], True),
        (["train", "unknown"], "unknown"),
        (["unknown", "train+val"], True),
    ],
)
def test_unknown_training_data_is_reported_as_unknown_never_as_clean(seen, mark):
    assert was_trained_on("val", seen) == mark


def test_released_weights_stay_unknown_after_fine_tuning(trained, place, run):
    """The published networks were trained on train+val+vg, which their files do not tell."""
    own = load_checkpoint(trained.checkpoint("base", "epoch2.pkl"))
    save_checkpoint(place.folder / "tuned.pkl", structs.replace(own, seen_splits=["train", "unknown"]))
    done = run(place, "--RUN=val", "--CKPT_PATH=tuned.pkl")
    meta, metrics = (place.result("val", "tuned", f"{kind}.json") for kind in ("meta", "metrics"))
    assert meta["scored_split_was_trained_on"] == metrics["scored_split_was_trained_on"] == "unknown"
    assert "val may have been trained on (--SPLIT=train, unknown)" in done.output
    assert done.output.count("(unknown whether trained on)") == len(meta["summary"])


# Results as a set

FILES = ("json", "probe.npy", "metrics.json", "meta.json")


def files_of(folder):
    return {path.name.split(".", 1)[1]: path.read_bytes() for path in folder.rglob("result_run_mine.*")}


@pytest.fixture
def two_sets(write, trained, tmp_path, monkeypatch):
    """Write a first result; return its files, and a function that writes another result in its place."""
    rows = [Result([{"row": n}], {"score": n}, {"score": n}, {"probe": np.full(3, n)}) for n in (1.0, 2.0)]

    def call(number):
        monkeypatch.setattr(f"{__name__}.RESULT", rows[number])
        write(trained, "val")
        return files_of(tmp_path)

    return call(0), lambda: call(1)


@pytest.mark.parametrize("number", range(len(FILES)))
def test_a_disk_that_fills_leaves_the_whole_earlier_result(two_sets, number, monkeypatch, tmp_path):
    before, again = two_sets
    written, write_file = [], results._write

    def failing(path, value):
        if len(written) == number:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write_file(path, value)

    monkeypatch.setattr(results, "_write", failing)
    with pytest.raises(OSError, match="No space") as caught:
        again()
    assert "result_run_mine" in str(caught.value.filename)
    assert files_of(tmp_path) == before and set(before) == set(FILES)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("number", range(len(FILES) + 1))
def test_a_set_that_was_cut_off_between_renames_can_be_told(two_sets, number, monkeypatch, tmp_path):
    before, again = two_sets
    renamed, rename = [], os.replace

    def dying(source, target):
        if len(renamed) == number:
            raise KeyboardInterrupt
        renamed.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with contextlib.suppress(KeyboardInterrupt):
        again()
    found = files_of(tmp_path)
    listed = json.loads(found.pop("meta.json"))["files"]
    hashes = {f"result_run_mine.{kind}": hashlib.sha256(data).hexdigest() for kind, data in found.items()}
    assert (hashes == listed) is (number in (0, len(FILES)))
    result = next(tmp_path.rglob("result_run_mine.json"))
    assert (results.changed_files(result) == []) is (hashes == listed)
    assert (found == {kind: data for kind, data in before.items() if kind != "meta.json"}) is (number == 0)


def test_a_result_without_figures_leaves_none_of_an_earlier_one(two_sets, write, trained, tmp_path, monkeypatch):
    (other := tmp_path / "ckpts/result_val/result_run_mine.other.json").write_text("[]")
    monkeypatch.setattr(f"{__name__}.RESULT", Result([{"row": 3}], {}, {}))
    with pytest.raises(FileNotFoundError):  # of the metrics, which `write` reads
        write(trained, "val")
    assert set(files_of(tmp_path)) == {"json", "meta.json", "other.json"} and other.read_text() == "[]"


# Hashes


def test_the_hash_of_a_genotype():
    genotype = Genotype((("self_att_64",),), (("guided_att_64", "feed_forward"),))
    text = b'{"dec":[["guided_att_64","feed_forward"]],"enc":[["self_att_64"]]}'
    assert genotype_hash(genotype) == hashlib.sha256(text).hexdigest()


def test_fine_tuning_does_not_forget_what_was_trained_on(trained, place, run):
    first = f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}"
    for version, split, source in (("a", "train+val", first), ("b", "train", "")):
        source = source or f"--CKPT_PATH={place.checkpoint('a', 'epoch1.pkl')}"
        flags = [f"--SPLIT={split}", source, f"--VERSION={version}", "--MAX_EPOCH=1"]
        done = run(place, "--RUN=train", *flags)
        assert done.code == 0, done.output
    done = run(place, "--RUN=val", "--VERSION=b")
    assert "val was trained on (--SPLIT=train, train+val, train)" in done.output
    meta = place.result("val", "b", "meta.json")
    assert meta["scored_split_was_trained_on"] and meta["seen_splits"] == ["train", "train+val", "train"]
