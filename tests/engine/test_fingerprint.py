"""A checkpoint knows its data: a change is said when a run resumes, and refused within an epoch."""

import json
import shutil

import pytest
import torch

from mmnas.config import load_config
from mmnas.data import refs
from mmnas.engine.fingerprint import fingerprint
from mmnas.tasks import task_named

QUESTIONS = "v2_OpenEnded_mscoco_{}2014_questions.json"
ANNOTATIONS = "v2_mscoco_{}2014_annotations.json"


def edit(path, change):
    content = json.loads(path.read_text())
    for value in content.values():
        if isinstance(value, list):
            change(value)
    path.write_text(json.dumps(content))


def both(change):
    """Return a change of the questions of train and of their annotations."""

    def alter(folder):
        for name in (QUESTIONS, ANNOTATIONS):
            edit(folder / name.format("train"), change)

    return alter


def append(rows):
    rows.append({**rows[-1], "question_id": 10**8})


def other_labels(folder):
    def change(rows):
        for row in rows:
            row["answers"] = [{**answer, "answer": "yes"} for answer in row["answers"]]

    edit(folder / ANNOTATIONS.format("train"), change)


def val_by_train(folder):
    for name in (QUESTIONS, ANNOTATIONS):
        shutil.copy(folder / name.format("train"), folder / name.format("val"))


CHANGES = {
    "reordered": both(list.reverse),
    "appended": both(append),
    "removed": both(list.pop),
    "other labels": other_labels,
}


@pytest.fixture
def resume(trained, place, run, tmp_path):
    """Return a function that resumes a run whose data a change has met, from a checkpoint with other fields."""

    def call(change, alter=lambda values: None, flags=("--RUN=train", "--RESUME", "--MAX_EPOCH=3")):
        data = tmp_path / "data"
        shutil.copytree(place.data / "vqa", data / "vqa")
        for name in ("coco_extract", "word_vectors"):
            (data / name).symlink_to(place.data / name)
        change(data / "vqa")
        place.data = data
        values = torch.load(trained.checkpoint("base", "epoch2.pkl"), weights_only=True)
        alter(values)
        path = place.checkpoint("base", "epoch2.pkl")
        path.parent.mkdir(parents=True)
        torch.save(values, path)
        return run(place, *flags, "--VERSION=base")

    return call


def within_epoch(values):
    values["step"] = 1


@pytest.mark.parametrize("kind", CHANGES)
def test_other_training_data_is_said_between_epochs(resume, kind):
    done = resume(CHANGES[kind])
    assert done.code == 0 and "was made with other training data (" in done.output, done.output
    assert " val (" not in done.output


@pytest.mark.parametrize("kind", CHANGES)
def test_other_training_data_is_refused_within_an_epoch(resume, kind):
    done = resume(CHANGES[kind], within_epoch)
    assert done.code == 2 and "within an epoch with other training data (" in done.output, done.output
    assert done.output.count("error: ") == 1 and "Traceback" not in done.output


def test_val_replaced_by_train_is_said(resume):
    done = resume(val_by_train)
    assert done.code == 0 and "was made with other val (" in done.output and "training data" not in done.output


@pytest.mark.parametrize("change", [val_by_train, CHANGES["reordered"]])
def test_scoring_other_val_data_than_in_training_is_said(resume, change):
    done = resume(change, flags=["--RUN=val"])
    assert done.code == 0 and done.output.count("was made with other val (") == (change is val_by_train)


@pytest.mark.parametrize("flags", [["--RUN=val"], ["--RUN=train", "--RESUME", "--MAX_EPOCH=3"]])
def test_the_same_data_goes_unmentioned(resume, flags):
    done = resume(lambda folder: None, flags=flags)
    assert done.code == 0 and "with other" not in done.output


def test_another_number_of_processes_is_said(resume):
    done = resume(lambda folder: None, lambda values: values.update(processes=3))
    assert done.code == 0 and "was made with other processes (3; now 1)" in done.output


def test_a_checkpoint_without_a_fingerprint_still_resumes(resume):
    done = resume(CHANGES["reordered"], lambda values: values.pop("data"))
    assert done.code == 0 and "with other" not in done.output


def prints_of(name, data, words):
    """Return the fingerprints of a task's training data, of its parts in a search and of val."""
    overrides = {"paths.data": str(data), "data.answer_min_count": 2}
    kind = task_named(name)
    task = kind(kind.settle(load_config(name, "tiny", split="train", version="x", overrides=overrides)))
    task.vocabularies = words or task.build_vocabularies()
    words.update(task.vocabularies)
    sets = [task.training_set()], task.search_sets(), [task.evaluation_set("val")]
    return [fingerprint(*each) for each in sets]


@pytest.mark.parametrize("name", ["vqa", "vgd", "itm"])
def test_the_same_data_has_the_same_fingerprint(world, name):
    prints = prints_of(name, world, {})
    assert prints == prints_of(name, world, {}) and len(set(prints)) == 3


@pytest.mark.parametrize("change", [lambda rows: rows[::-1], lambda rows: rows[:-1], lambda rows: [*rows, rows[0]]])
def test_other_expressions_have_another_fingerprint(world, monkeypatch, change):
    before, find = prints_of("vgd", world, words := {}), refs.find_expressions
    monkeypatch.setattr(
        refs, "find_expressions", lambda *args: {split: change(rows) for split, rows in find(*args).items()}
    )
    assert not {*before} & {*prints_of("vgd", world, words)}


def test_other_captions_have_another_fingerprint(world, tmp_path):
    before = prints_of("itm", world, words := {})
    shutil.copytree(world, tmp_path / "data", symlinks=True)
    for path in (tmp_path / "data").rglob("train_caps.txt"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[1::-1], *lines[2:]]) + "\n")
    after = prints_of("itm", tmp_path / "data", words)
    assert after[0] != before[0] and after[1] != before[1] and after[2] == before[2]
