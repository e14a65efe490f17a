"""The guide to one's own data, as it stands: its lines write an example that all its commands work on."""

import json
import re
import shlex

import numpy as np
import pytest

from mmnas.__main__ import main as mmnas_main
from mmnas.engine.checkpoint import load_checkpoint
from mmnas.predict.ensemble import combine
from mmnas.predict.samples import read_samples, score_samples
from mmnas.predict.stored import read_result
from tests.conftest import ROOT, Workplace

GUIDE = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
LINES = re.search(r"```python\n(.*?)```", GUIDE, re.S)[1]
COMMANDS = list(map(shlex.split, re.search(r"```bash\n(.*?)```", GUIDE, re.S)[1].splitlines()))
DATA = ["--DATASET=custom", "--DATA_PATH=mine", "--WORD_VECTORS=none"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which the guide's lines have written their example."""
    monkeypatch.chdir(tmp_path)
    exec(LINES, {})
    return Workplace(tmp_path, tmp_path / "mine")


def changed(tmp_path, name, change):
    """Rewrite a file of the example."""
    path = tmp_path / "mine" / name
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([change(entry) or entry for entry in entries]))


def test_the_example_is_as_short_as_it_can_be():
    assert len(list(filter(None, LINES.splitlines()))) <= 13


@pytest.mark.slow
def test_every_command_of_the_guide(place, run, capsys):
    outputs = []
    for command in COMMANDS:
        if command[0] == "mmnas":
            assert mmnas_main(command[1:]) == 0
        else:
            place.task = command[1][len("train_") : -len(".py")]
            flags = [*command[2:], "--MAX_EPOCH=2", "--NW=0"] if "--RUN=train" in command else command[2:]
            done = run(place, *flags)
            assert done.code == 0, done.output
            outputs.append(done.output)
    assert "no word vectors: the words are learned from the training data alone" in outputs[0]
    assert "val is scored by exact match" in outputs[1]
    rows = place.result("val", "colors")
    assert [row["question_id"] for row in rows] == [f"q{number}" for number in range(40, 50)]
    assert load_checkpoint(place.checkpoint("colors", "epoch1.pkl")).vocabularies["answers"]
    result = read_result("logs/ckpts/result_val/result_run_colors.json")
    _, scores = score_samples(result, read_samples(result.config, "val")).headline
    assert scores.mean() == pytest.approx(result.provenance["summary"]["overall"])
    changed(place.folder, "questions.json", lambda entry: entry.update(answers=["violet"]))
    assert mmnas_main(["report", "colors", "--out=report.html"]) == 0
    assert "colors was scored with other data: overall was" in (place.folder / "report.html").read_text()
    place.task, flags = "vqa", ("--RUN=val", "--VERSION=colors", "--CKPT_PATH=last", "--DATA_PATH=mine", "--SCORES")
    assert run(place, *flags).code == 0
    changed(place.folder, "questions.json", lambda entry: entry.update(answers=["red", "green", "blue"]))
    combine([result.path, result.path], place.folder / "both.json")
    assert "result_run_colors.json was scored with other data: overall was" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("task", ["vgd", "itm"])
def test_results_name_images_and_samples_as_the_user_does(place, run, task):
    place.task = task
    flags = ["--RUN=train", "--VERSION=mine", "--SPLIT=train", *place.settings, *DATA, "--NW=0"]
    assert run(place, *flags).code == 0
    done = run(place, "--RUN=val", "--CKPT_PATH=last", "--VERSION=mine", "--DATA_PATH=mine")
    assert done.code == 0, done.output
    rows = place.result("val", "mine")
    assert rows[0]["image_id"] == "photo-40a.jpg"
    if task == "itm":
        matrix = np.load("logs/ckpts/result_val/result_run_mine.scores.npy")
        assert matrix.shape == (10, 20) and len(rows) == 30  # images 40 to 49 have 1 + n % 3 captions
        metrics = place.result("val", "mine", "metrics.json")
        ranks = [1 + sum(matrix[:, c] >= matrix[own, c]) - 1 for c, own in enumerate(owners())]
        assert metrics["text_to_image"]["r1"] == pytest.approx(100 * np.mean(np.array(ranks) == 1))
    result = read_result("logs/ckpts/result_val/result_run_mine.json")
    samples = read_samples(result.config, "val")
    name, scores = score_samples(result, samples).headline
    assert scores.mean() == pytest.approx(result.provenance["summary"][name])


def owners():
    return [row for row, number in enumerate(range(40, 50)) for _ in range(1 + number % 3)]


@pytest.mark.slow
def test_ten_answers_each_are_scored_as_published(place, run, tmp_path):
    changed(tmp_path, "questions.json", lambda entry: entry.update(answers=entry["answers"] * 10))
    flags = ["--RUN=train", "--VERSION=ten", "--SPLIT=train", *place.settings, *DATA, "--NW=0", "--MAX_EPOCH=1"]
    assert run(place, *flags).code == 0
    done = run(place, "--RUN=val", "--CKPT_PATH=last", "--VERSION=ten", "--DATA_PATH=mine")
    assert "exact match" not in done.output and set(place.result("val", "ten", "metrics.json")) > {"official"}


@pytest.mark.slow
def test_without_val_nothing_is_scored(place, run, tmp_path):
    changed(tmp_path, "questions.json", lambda entry: entry.update(split="all of it"))
    flags = ["--RUN=train", "--VERSION=all", "--SPLIT=all of it", *place.settings, *DATA, "--NW=0", "--MAX_EPOCH=1"]
    done = run(place, *flags)
    assert done.code == 0 and "val" not in done.output.split("epoch 1")[1], done.output
    bad = run(place, *[flag.replace("all of it", "more") for flag in flags], "--VERSION=other")
    assert bad.code == 2 and "has no split 'more'; it has 'all of it'" in bad.output


@pytest.mark.slow
def test_a_model_of_another_data_set_is_scored_and_fine_tuned_on_own_data(place, run, trained):
    base = f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}"
    mine = ["--DATASET=custom", "--DATA_PATH=mine"]
    done = run(place, "--RUN=val", base, *mine, "--VERSION=untuned")
    assert done.code == 0 and "val is scored by exact match" in done.output, done.output
    assert place.result("val", "untuned", "meta.json")["seen_splits"] == ["train of vqa2"]
    flags = ["--RUN=train", base, "--SPLIT=train", "--NEW_ANSWERS", "--MAX_EPOCH=1", *mine]
    done = run(place, *flags, "--VERSION=tuned")
    assert done.code == 0 and "may have been" not in done.output, done.output
    checkpoint = load_checkpoint(place.checkpoint("tuned", "epoch1.pkl"))
    assert sorted(checkpoint.vocabularies["answers"]) == ["blue", "green", "red"]
    assert checkpoint.seen_splits == ["train", "train of vqa2"]
    again = run(place, "--RUN=train", "--RESUME", "--VERSION=tuned", "--DATASET=vqa2", "--MAX_EPOCH=2")
    assert again.code == 2 and "--DATASET=vqa2 contradicts" in again.output


@pytest.mark.slow
def test_matching_trains_on_the_splits_that_are_named(place, run):
    place.task = "itm"
    flags = ["--RUN=train", "--SPLIT=val+test", "--VERSION=x", *place.settings, *DATA, "--NW=0", "--MAX_EPOCH=1"]
    done = run(place, *flags)
    assert done.code == 0 and "16 of 41 training samples" in done.output, done.output  # 1 + n % 3 captions each
    bad = run(place, *[flag.replace("val+test", "more") for flag in flags], "--VERSION=y")
    assert bad.code == 2 and "has no split 'more'; it has 'train', 'val', 'test'" in bad.output


def test_features_that_are_missing_are_asked_for_by_the_name_of_the_image(place, run, tmp_path):
    (tmp_path / "mine/features/photo-05a.jpg.npz").unlink()
    flags = ["--RUN=train", "--VERSION=mine", "--SPLIT=train", *place.settings, *DATA, "--NW=0"]
    done = run(place, *flags)
    assert done.code == 2 and "no region features for image 'photo-05a.jpg'" in done.output
    assert "photo-05a.jpg.npz" in done.output and not (tmp_path / "logs").exists()


def test_check_data_says_what_is_there(place, capsys):
    for task in ("vqa", "vgd", "itm"):
        assert mmnas_main(["check-data", task, *DATA, "--SPLIT=train"]) == 0
        output = capsys.readouterr().out
        assert "verdict: ready to train: no faults, no warnings" in output, output
        assert mmnas_main(["check-data", task, *DATA, "--SPLIT=train+more"]) == 1
        output = capsys.readouterr().out
        assert "has no split 'more'; it has 'train', 'val', 'test'\nverdict: NOT ready" in output, output


@pytest.mark.slow
def test_training_starts_from_the_split_train_unless_another_is_named(place, run, tmp_path):
    flags = ["--RUN=train", *place.settings, *DATA, "--NW=0", "--MAX_EPOCH=1"]
    done = run(place, *flags, "--VERSION=mine")
    assert done.code == 0 and "40 training samples" in done.output, done.output
    (tmp_path / "else").mkdir()
    tune = ["--RUN=train", f"--CKPT_PATH={place.checkpoint('mine', 'epoch1.pkl')}", "--DATA_PATH=else"]
    assert "fine-tuning on train under else" in run(place, *tune, "--VERSION=tuned").output
    assert (
        "'train+vla' is unknown" in run(place, *tune, "--VERSION=x", "--DATASET=vqa2", "--SPLIT=train+vla").output
    )


@pytest.mark.slow
def test_captions_of_any_split_are_trained_on(place, run, tmp_path):
    place.task = "itm"
    changed(
        tmp_path, "captions.json", lambda entry: entry.update(split={"test": "more"}.get(entry["split"], "mine"))
    )
    flags = ["--RUN=train", *place.settings, *DATA, "--NW=0", "--MAX_EPOCH=1", "--VERSION=pairs"]
    done = run(place, *flags, "--SPLIT=mine+more")
    assert done.code == 0 and "120 training samples" in done.output, done.output


def test_boxes_in_other_units_are_refused_and_pointed_out(place, run, tmp_path, capsys):
    place.task = "vgd"
    changed(tmp_path, "expressions.json", lambda entry: entry.update(bbox=[0.1, 0.1, 0.2, 0.2]))
    flags = ["--RUN=train", *place.settings, *DATA, "--NW=0", "--SPLIT=train", "--VERSION=things"]
    done = run(place, *flags)
    assert done.code == 2 and "no region meets any expression" in done.output
    assert "a bbox is [x, y, width, height] in pixels" in done.output and not (tmp_path / "logs").exists()
    for path in (tmp_path / "mine/features").glob("*.npz"):
        with np.load(path) as file:
            np.savez(path, **{**file, "bbox": file["bbox"] / 400})
    assert mmnas_main(["check-data", "vqa", *DATA]) == 0
    assert "lie within 0..1: boxes must be in pixels; so do those of 29 others" in capsys.readouterr().out


def test_the_folder_in_an_image_s_name_is_not_part_of_its_features_file(place, run, tmp_path):
    changed(tmp_path, "questions.json", lambda entry: entry.update(image=f"{entry['split']}/{entry['image']}"))
    assert mmnas_main(["check-data", "vqa", *DATA]) == 0
    (tmp_path / "mine/features/photo-05a.jpg.npz").unlink()
    done = run(place, "--RUN=train", *place.settings, *DATA, "--VERSION=mine")
    assert "image 'train/photo-05a.jpg' of" in done.output and "a file such as photo-05a.jpg.npz" in done.output
