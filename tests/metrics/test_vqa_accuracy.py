import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmnas.errors import ConfigError, DataError
from mmnas.metrics.vqa_accuracy import EXACT, FORMS, vqa_accuracy

PARITY = json.loads((Path(__file__).parents[1] / "parity" / "vqa_metric.json").read_text(encoding="utf-8"))


@dataclass
class Annotated:
    question_id: int
    answers: tuple[str, ...]
    question_type: str = "what is"
    answer_type: str = "other"


def parity_annotations():
    for entry in PARITY["annotations"]:
        yield Annotated(
            entry["question_id"],
            tuple(answer["answer"] for answer in entry["answers"]),
            entry["question_type"],
            entry["answer_type"],
        )


@pytest.mark.parametrize(
    ("form", "key"), [("official", "accuracy_official"), ("published", "accuracy_published_code")]
)
def test_whole_evaluation_of_the_fixture(form, key):
    predictions = {result["question_id"]: result["answer"] for result in PARITY["results"]}
    result, expected = vqa_accuracy(predictions, parity_annotations(), form), PARITY[key]

    def rounded(scores):  # the fixture's means are rounded to two decimals
        return {name: round(score, 2) for name, score in scores.items()}

    assert round(result["overall"], 2) == expected["overall"]
    assert rounded(result["answer_type"]) == expected["perAnswerType"]
    assert rounded(result["question_type"]) == expected["perQuestionType"]
    assert result["question"] == {int(key): score for key, score in expected["perQuestion"].items()}


@pytest.mark.parametrize(("matches", "percent"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (10, 100)])
@pytest.mark.parametrize("form", FORMS)
def test_score_by_the_number_of_annotators_who_agree(matches, percent, form):
    answers = ("red",) * matches + ("blue",) * (10 - matches)
    assert vqa_accuracy({1: "red"}, [Annotated(1, answers)], form)["question"] == {1: percent}


@pytest.mark.parametrize(
    ("prediction", "answers", "official", "published"),
    [
        # Unanimous: nothing is normalised officially; the published code normalises the prediction alone.
        ("a dog", ("a dog",) * 10, 100, 0),
        ("dog", ("a dog",) * 10, 0, 0),
        ("two", ("2",) * 10, 0, 100),
        (" dog\n", ("dog\t",) * 10, 100, 0),
        # Not unanimous: officially both sides in full; the published code only strips answers of marks.
        ("two", ("two",) * 9 + ("3",), 100, 0),
        ("dog", ("a dog",) * 9 + ("cat",), 100, 0),
        ("left", ("left!",) * 3 + ("right",) * 7, 90, 0),
        ("hot dog", ("hot-dog",) * 3 + ("bun",) * 7, 90, 90),
        # White space is trimmed before the answers are compared with each other.
        ("a dog", ("a dog",) * 9 + ("a dog ",), 100, 0),
    ],
)
def test_where_the_two_forms_differ(prediction, answers, official, published):
    annotations = [Annotated(1, answers)]
    assert vqa_accuracy({1: prediction}, annotations, "official")["overall"] == official
    assert vqa_accuracy({1: prediction}, annotations, "published")["overall"] == published


def test_means_by_type_are_unrounded():
    annotations = [
        Annotated(1, ("2",) * 10, "how many", "number"),
        Annotated(2, ("red",) * 10, "what color", "other"),
        Annotated(3, ("3",) * 10, "how many", "number"),
        Annotated(4, ("red",) + ("blue",) * 9, "what is", "other"),
        Annotated(5, ("4",) * 10, "how many", "number"),
    ]
    result = vqa_accuracy({1: "2", 2: "red", 3: "4", 4: "red", 5: "3"}, annotations)
    assert result["overall"] == pytest.approx(230 / 5, abs=1e-12)
    assert result["answer_type"] == {"number": pytest.approx(100 / 3, abs=1e-12), "other": 65}
    assert list(result["question_type"]) == ["how many", "what color", "what is"]
    assert result["question"] == {1: 100, 2: 100, 3: 0, 4: 30, 5: 0}


def test_missing_and_foreign_predictions_are_named_and_counted():
    annotations = [Annotated(number, ("yes",) * 10) for number in (7, 5, 6)]
    with pytest.raises(DataError, match=r"no prediction for question 7 \(2 of 3 questions"):
        vqa_accuracy({5: "yes"}, annotations)
    with pytest.raises(DataError, match=r"question 9, which has no annotation \(2 such of 5\)"):
        vqa_accuracy(dict.fromkeys([5, 9, 6, 7, 8], "yes"), annotations)


def test_nothing_to_score_is_an_error():
    with pytest.raises(DataError, match="no annotations to score"):
        vqa_accuracy({}, [])


def test_an_unknown_form_is_an_error_that_lists_the_forms():
    with pytest.raises(ConfigError, match="'server': choose one of official, published"):
        vqa_accuracy({}, [], "server")


@pytest.mark.parametrize(
    ("prediction", "answers", "percent"),
    [("red", ("red",), 100), ("Two", ("2.",), 100), ("red", ("blue",), 0), ("red", ("blue", "a red", "blue"), 100)],
)
def test_exact_match_with_few_answers(prediction, answers, percent):
    assert vqa_accuracy({1: prediction}, [Annotated(1, answers)], EXACT)["overall"] == percent


@pytest.mark.parametrize("nameless", ["", " "])
@pytest.mark.parametrize("form", [*FORMS, EXACT])
def test_types_without_a_name_have_no_row(form, nameless):
    annotations = [Annotated(1, ("red",) * 10, "what", nameless), Annotated(2, ("red",) * 10, nameless, "other")]
    result = vqa_accuracy({1: "red", 2: "blue"}, annotations, form)
    assert result["overall"] == 50
    assert (result["question_type"], result["answer_type"]) == ({"what": 100}, {"other": 0})
