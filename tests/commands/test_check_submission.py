"""`python -m mmnas check-submission`, and the same check of what --RUN=test wrote."""

import json

import pytest

from mmnas.__main__ import main
from mmnas.tasks.submission import find_faults
from mmnas.tasks.vqa import VQATask
from tests.places import require_questions

GOOD = [
    {"answer": "red", "question_id": 10},
    {"answer": "yes", "question_id": 20},
    {"answer": "", "question_id": 30},
]


def entry(answer, question_id, **more):
    return {"answer": answer, "question_id": question_id, **more}


@pytest.fixture
def faults():
    """Check rows against the questions 10, 20 and 30."""

    def call(rows, answers=None):
        found = find_faults(rows, [10, 20, 30], answers)
        assert all("\n" not in fault for fault in found)
        return found

    return call


def test_a_whole_result_has_no_fault(faults):
    assert faults(GOOD) == []
    assert faults(GOOD[::-1], ["yes", "", "red", "no"]) == []


@pytest.mark.parametrize(
    ("rows", "message", "first"),
    [
        (GOOD[:1], "2 questions have no answer", "question 20"),
        ([*GOOD, *GOOD[:1], *GOOD[:1]], "1 questions are answered more than once", "question 10, 3 times"),
        ([entry("a", 7), *GOOD, entry("b", 5)], "2 answers are to questions that are not", "question 7"),
        ([*GOOD, entry("a", True)], "1 entries are not of", "{'answer': 'a', 'question_id': True} at index 3"),
        ([*GOOD, entry("a", "10")], "1 entries are not of the form", "{'answer': 'a', 'question_id': '10'}"),
        ([*GOOD, entry(3, 10)], "1 entries are not of the form", "{'answer': 3"),
        ([entry("a", 1, score=0.5), *GOOD], "1 entries are not of the form", "{'answer': 'a', 'question_id': 1, "),
        ([*GOOD, {"answer": "a"}, [], None], "3 entries are not of the form", "{'answer': 'a'} at index 3"),
    ],
)  # fmt: skip
def test_each_kind_of_fault_is_one_line_with_count_and_example(faults, rows, message, first):
    (fault,) = faults(rows)
    assert fault.startswith(message)
    assert f"; first {first}" in fault


def test_an_answer_outside_the_vocabulary(faults):
    (fault,) = faults(GOOD, ["red", "yes"])
    assert (
        fault == "1 answers are not of the checkpoint: it is not the one that wrote them; first '' to question 30"
    )


def test_several_kinds_are_all_listed(faults):
    found = faults([entry("red", 10), entry("red", 10), entry("red", 99), 5], ["blue"])
    assert [fault.split()[0] for fault in found] == ["1", "1", "1", "2", "3"]


@pytest.mark.parametrize(("rows", "message"), [({"answers": GOOD}, "must hold a list"), ("[", "must hold a list")])
def test_something_else_than_a_list(faults, rows, message):
    (fault,) = faults(rows)
    assert message in fault


# The command


@pytest.fixture
def submit(trained, tmp_path, capsys):
    """Run the command on rows against the world's test questions; return code and output."""

    def call(change=lambda rows: rows, *flags):
        questions = require_questions(trained.data, "test")
        ids = [entry["question_id"] for entry in json.loads(questions.read_text())["questions"]]
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(change([entry("yes", number) for number in ids])))
        capsys.readouterr()
        code = main(["check-submission", str(path), str(questions), *flags])
        return code, "".join(capsys.readouterr())

    return call


def test_the_command_says_what_is_whole(submit, trained):
    code, output = submit()
    assert code == 0 and "one answer to each of 192 questions" in output
    checkpoint = trained.checkpoint("base", "epoch2.pkl")
    code, output = submit(lambda rows: rows, f"--CKPT_PATH={checkpoint}")
    assert code == 0 and str(checkpoint) in output


def test_the_command_lists_faults(submit, trained):
    def spoil(rows):
        return [*rows[2:], entry("no such answer", rows[2]["question_id"])]

    code, output = submit(spoil, f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}")
    assert code == 1
    assert [line.split(": ")[2].split(" ", 1)[1] for line in output.splitlines()] == [
        "questions are answered more than once", "questions have no answer", "answers are not of the checkpoint",
    ]  # fmt: skip


def test_a_result_that_changed_after_its_provenance_was_written_is_a_fault(submit, tmp_path):
    (tmp_path / "mine.meta.json").write_text(json.dumps({"files": {"mine.json": "0" * 64}}))
    code, output = submit()
    assert code == 1 and "mine.json changed after the .meta.json file was written: score again" in output


def test_what_cannot_be_checked_is_an_error(submit, grounded, tmp_path, capsys):
    code, output = submit(lambda rows: rows, f"--CKPT_PATH={grounded.checkpoint('base', 'epoch2.pkl')}")
    assert code == 2 and "holds no answers" in output
    assert main(["check-submission", str(tmp_path / "mine.json"), str(tmp_path / "none.json")]) == 2
    assert "VQA questions file not found" in capsys.readouterr().err
    questions = str(require_questions(grounded.data, "test"))
    assert main(["check-submission", str(tmp_path / "absent.json"), questions]) == 1
    assert "fault: result file not found" in capsys.readouterr().out


# What --RUN=test wrote


def test_a_test_run_refuses_what_cannot_be_submitted(trained, place, run, monkeypatch):
    def twice(task, model, batch):
        first, second, *others = predict(task, model, batch)
        return [{**first, "index": second["index"]}, second, *others]

    flags = ["--RUN=test", f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}", "--VERSION=mine"]
    assert run(place, *flags).code == 0
    (place.folder / "logs/ckpts/result_test/result_run_mine.json").unlink()
    predict = VQATask.predict
    monkeypatch.setattr(VQATask, "predict", twice)
    done = run(place, *flags)
    assert done.code == 2
    assert "answered more than once" in done.output and "have no answer" in done.output
    assert not (place.folder / "logs/ckpts/result_test/result_run_mine.json").exists()
