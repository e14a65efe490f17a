"""`mmnas export`: what it writes loads like the checkpoint, to the bit; nothing that is there is overwritten."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mmnas
from mmnas.__main__ import main
from mmnas.data.features import NpzFolders
from mmnas.data.vqa_json import read_questions
from mmnas.engine.checkpoint import load_checkpoint
from mmnas.engine.exported import SETTINGS, WEIGHTS
from mmnas.errors import CheckpointError
from tests.conftest import Workplace
from tests.places import require_questions


def pairs(place: Workplace, count: int = 5):
    """Questions of val, and their images' features, boxes and sizes."""
    questions = read_questions(require_questions(place.data, "val"))[:count]
    source = NpzFolders([place.data / "coco_extract" / "val2014"], 2048)
    images = [source[question.image_id] for question in questions]
    arrays = [[getattr(image, name) for image in images] for name in ("features", "boxes", "image_size")]
    return [question.text for question in questions], *arrays


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The folder that the checkpoint "base" was exported to; nobody writes into it."""
    out = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", str(trained.checkpoint("base", "epoch2.pkl")), str(out)]) == 0
    return out


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copied")


def test_an_export_holds_the_checkpoint_but_for_what_only_training_needs(trained, exported):
    old, new = load_checkpoint(trained.checkpoint("base", "epoch2.pkl")), load_checkpoint(exported)
    assert set(old.model) == set(new.model)
    for name, weight in old.model.items():
        assert torch.equal(weight, new.model[name]) and weight.dtype == new.model[name].dtype
    for name in ("genotype", "vocabularies", "epoch", "history", "seen_splits", "data", "versions"):
        assert getattr(old, name) == getattr(new, name)
    assert {**old.config, "paths": None} == {**new.config, "paths": None}
    assert str(trained.data) not in (exported / SETTINGS).read_text()  # nor any other path of this machine
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1
    assert new.optimizer == {} and set(load_file(exported / WEIGHTS)) == set(old.model)


def test_an_export_computes_the_same_to_the_bit(trained, exported):
    inputs = pairs(trained)
    own, other = (mmnas.load(path)(*inputs) for path in (trained.checkpoint("base", "epoch2.pkl"), exported))
    np.testing.assert_array_equal(own, other)


def test_an_export_is_scored_and_fine_tuned_like_a_checkpoint(trained, exported, place, run):
    assert run(place, "--RUN=val", f"--CKPT_PATH={exported}", "--VERSION=mine").code == 0
    own = trained.checkpoint("base", "epoch2.pkl")
    assert run(place, "--RUN=val", f"--CKPT_PATH={own}", "--VERSION=own").code == 0
    assert place.result("val", "mine") == place.result("val", "own")
    assert place.result("val", "mine", "meta.json")["scored_split_was_trained_on"] is False
    tuned = ["--RUN=train", "--SPLIT=train", "--MAX_EPOCH=1", f"--CKPT_PATH={exported}", "--VERSION=tuned"]
    assert run(place, *tuned).code == 0
    assert load_checkpoint(place.checkpoint("tuned", "epoch1.pkl")).seen_splits == ["train", "train"]
    resumed = run(place, "--RUN=train", "--RESUME", f"--CKPT_PATH={exported}", "--VERSION=more", "--MAX_EPOCH=3")
    assert resumed.code == 2 and "start from its weights by --CKPT_PATH alone" in resumed.output


def test_the_best_checkpoint_of_a_version_is_exported(trained, tmp_path, capsys):
    history = load_checkpoint(trained.checkpoint("base", "epoch2.pkl")).history
    best = max(history, key=lambda row: (row["metrics"]["overall"], -row["epoch"]))["epoch"]
    assert main(["export", "base", str(tmp_path / "out"), f"--logs={trained.folder}/logs"]) == 0
    assert f"epoch{best}.pkl" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "out").epoch == best


def test_the_card_says_what_the_model_is_and_how_good(trained, exported, tmp_path, run):
    card = (exported / "README.md").read_text()
    overall = load_checkpoint(exported).history[-1]["metrics"]["overall"]
    assert f"| val | overall | {overall:.2f} |  |" in card
    assert "mmnas.load(" in card and "splits: train |" in card and "Apache-2.0" in card
    own = trained.checkpoint("base", "epoch2.pkl")
    moved = tmp_path / "logs" / "ckpts" / "ckpt_base" / "epoch2.pkl"
    moved.parent.mkdir(parents=True)
    shutil.copy(own, moved)
    place = Workplace(tmp_path, trained.data)
    assert run(place, "--RUN=val", "--VERSION=base").code == 0
    meta = place.result("val", "base", "meta.json")
    other = {**meta, "scored_on": "test\x1b[2J|", "summary": {"overall": 12.25}}
    (tmp_path / "logs/ckpts/result_val/result_run_other.meta.json").write_text(json.dumps(other))
    (tmp_path / "logs/ckpts/result_val/result_run_old.meta.json").write_text("{}")
    assert main(["export", str(moved), str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| test\\x1b[2J&#124; | overall | 12.25 |" in card


# What is there already


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_is_overwritten(kind, trained, tmp_path, capsys):
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "link": lambda: out.symlink_to("nowhere")}[kind]()
    assert main(["export", str(trained.checkpoint("base", "epoch2.pkl")), str(out)]) == 2
    assert "exists and is left as it is" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_fails_leaves_nothing(trained, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmnas.engine.exported.save", full)
    assert main(["export", str(trained.checkpoint("base", "epoch2.pkl")), str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "No space left on device" in shown and shown.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed_by_the_next_one(trained, tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left, running = tmp_path / f".out.{int(ended.stdout)}.tmp", tmp_path / f".out.{os.getppid()}.tmp"
    for folder in (left, running):
        folder.mkdir()
        (folder / WEIGHTS).touch()
    assert main(["export", str(trained.checkpoint("base", "epoch2.pkl")), str(tmp_path / "out")]) == 0
    assert sorted(tmp_path.iterdir()) == sorted([running, tmp_path / "out"])


# What may come from a stranger


def settings(folder):
    return json.loads((folder / SETTINGS).read_text())


def change(folder, **changes):
    """Change settings as someone who knows the format would: the header of the weights follows."""
    from mmnas.engine import exported

    values = {**settings(folder), **changes, "model": load_file(folder / WEIGHTS)}
    exported.write_export(folder, values)


def refused(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        mmnas.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_settings_and_weights_of_two_exports_are_told(copied):
    text = (copied / SETTINGS).read_text()
    (copied / SETTINGS).write_text(text.replace('"yes"', '"maybe"', 1))
    assert "is not the one that model.safetensors was exported with" in refused(copied)


def test_other_files_do_no_harm_and_files_may_be_links(exported, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    for name in (SETTINGS, WEIGHTS):
        (folder / name).symlink_to(exported / name)
    (folder / "model.py").write_text("raise SystemExit")
    (folder / "more").mkdir()
    assert mmnas.load(folder).task.name == "vqa"


@pytest.mark.parametrize("name", [SETTINGS, WEIGHTS])
def test_a_missing_or_endless_file_is_one_line(name, copied):
    (copied / name).unlink()
    assert copied.name in refused(copied)
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        make(copied / name)
        assert copied.name in refused(copied)
        (copied / name).rmdir() if (copied / name).is_dir() else (copied / name).unlink()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "mmnas checkpoint 7", "neither a checkpoint of this project"),
        ("history", [], "history must have a row for each of 2 epochs"),
        ("vocabularies", {"tokens": ["PAD", "UNK", "CLS"]}, "needs"),
        ("vocabularies", {"tokens": ["PAD", "UNK", "CLS"], "answers": ["yes"]}, "it was trained with"),
        ("genotype", {"enc": [["eval"]], "dec": []}, "genotype"),
        ("epoch", 10**30, "an integer of 100 bits"),
        ("unheard_of", 1, "unknown key unheard_of"),
    ],
)
def test_altered_settings_are_one_line(key, value, message, copied):
    change(copied, **{key: value})
    assert message in refused(copied)


def test_words_that_no_model_can_use_are_not_exported_again(copied, tmp_path, capsys):
    held = settings(copied)["vocabularies"]
    change(copied, vocabularies={**held, "tokens": [*held["tokens"][:-1], held["tokens"][3]]})
    assert main(["export", str(copied), str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "repeats" in shown and shown.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [float("nan"), 0, -1, 1 << 16, 1 << 40, "64", None])
def test_absurd_sizes_are_one_line_and_take_no_memory(size, copied):
    config = settings(copied)["config"]
    text = json.dumps({**settings(copied), "config": {**config, "model": {**config["model"], "hidden_size": size}}})
    if size == size:
        change(copied, **json.loads(text))
    else:
        (copied / SETTINGS).write_text(text)
    assert copied.name in refused(copied)


@pytest.mark.parametrize(
    "alter",
    [
        lambda data: data[:-100],
        lambda data: data + b"more",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: b"",
        lambda data: data.replace(b'"shape":[64', b'"shape":[63', 1),
        lambda data: data[: len(data) // 2] + b"\xff" * (len(data) - len(data) // 2),
    ],
    ids=["cut", "longer", "endless header", "empty", "other shape", "NaN"],
)
def test_altered_weights_are_one_line(alter, copied):
    path = copied / WEIGHTS
    path.write_bytes(alter(path.read_bytes()))
    assert copied.name in refused(copied)
