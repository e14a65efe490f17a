"""VQA accuracy, overall and per answer type and question type, in the two forms in use.

An answer scores the mean, over the leave-one-out sets of the annotators' answers, of min(matches / 3, 1)
(Antol et al., "VQA: Visual Question Answering", ICCV 2015). All figures are percent, unrounded.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from mmnas.errors import ConfigError, DataError
from mmnas.text.answers import normalize_for_metric, normalize_punctuation, trim

#: "official" is today's evaluation server; "published" is the code of the paper, of MCAN and of OpenVQA.
FORMS = ("official", "published")
#: A form for data with fewer annotators: an answer that equals any of theirs, once normalized, scores 100.
EXACT = "exact"
#: The annotators of a question for whom VQA accuracy was made.
ANSWERS = 10


class Annotated(Protocol):
    """What an annotation must offer; `mmnas.data.vqa_json.Annotation` does."""

    @property
    def question_id(self) -> int:
        """The question that was annotated."""

    @property
    def question_type(self) -> str:
        """The question's first words, such as "how many"."""

    @property
    def answer_type(self) -> str:
        """One of "yes/no", "number" and "other"."""

    @property
    def answers(self) -> Sequence[str]:
        """The annotators' answers, ten in VQA v2."""


def vqa_accuracy(
    predictions: Mapping[Any, str], annotations: Iterable[Annotated], form: str = "official"
) -> dict[str, Any]:
    """Score `predictions` (question id -> answer) in one of `FORMS`, or by `EXACT` match.

    Returns percents: `overall`, and the dicts `answer_type`, `question_type` (by name, those that have one) and
    `question` (by id). Raises DataError unless exactly the annotated questions are predicted.
    """
    if form not in _COMPARED:
        raise ConfigError(f"unknown form of VQA accuracy {form!r}: choose one of {', '.join(_COMPARED)}")
    annotations = list(annotations)
    _check_questions(predictions, annotations)
    score_of = _exact_match if form == EXACT else _score
    question, answer_type, question_type = {}, defaultdict(list), defaultdict(list)
    for annotation in annotations:
        score = score_of(*_COMPARED[form](predictions[annotation.question_id], annotation.answers))
        question[annotation.question_id] = score
        answer_type[annotation.answer_type].append(score)
        question_type[annotation.question_type].append(score)
    return {
        "overall": _mean(question.values()),
        "answer_type": {name: _mean(scores) for name, scores in answer_type.items() if name.strip()},
        "question_type": {name: _mean(scores) for name, scores in question_type.items() if name.strip()},
        "question": question,
    }


def _official(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """What the evaluation server compares: after one unanimous answer nothing is normalized."""
    prediction, answers = trim(prediction), [trim(answer) for answer in answers]
    if len(set(answers)) == 1:
        return prediction, answers
    return _normalized(prediction, answers)


def _published(prediction: str, answers: Sequence[str]) -> tuple[str, Sequence[str]]:
    """What the published code compares: "a dog" as prediction never matches the annotators' "a dog"."""
    if len(set(answers)) > 1:
        answers = [normalize_punctuation(answer) for answer in answers]
    return normalize_for_metric(prediction), answers


def _normalized(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    return normalize_for_metric(prediction), [normalize_for_metric(answer) for answer in answers]


_COMPARED = {"official": _official, "published": _published, EXACT: _normalized}


def _exact_match(prediction: str, answers: Sequence[str]) -> float:
    return 100.0 * (prediction in answers)


def _score(prediction: str, answers: Sequence[str]) -> float:
    """Percent; leaving out one of the `matches` answers that agree leaves one match fewer."""
    total, matches = len(answers), answers.count(prediction)
    thirds = matches * min(matches - 1, 3) + (total - matches) * min(matches, 3)
    return 100 * thirds / (3 * total)


def _mean(scores: Iterable[float]) -> float:
    scores = list(scores)
    return sum(scores) / len(scores)


def _check_questions(predictions: Mapping[Any, str], annotations: Sequence[Annotated]) -> None:
    """Raise DataError unless `predictions` and `annotations` are of the same, non-empty, set of questions."""
    annotated = [annotation.question_id for annotation in annotations]
    if not annotated:
        raise DataError("no annotations to score against: give those of the split that was predicted")
    missing = [number for number in annotated if number not in predictions]
    if missing:
        count = f"{len(missing)} of {len(annotated)} questions lack one"
        raise DataError(f"no prediction for question {missing[0]} ({count}): predict every question of the split")
    known = set(annotated)
    foreign = [number for number in predictions if number not in known]
    if foreign:
        count = f"{len(foreign)} such of {len(predictions)}"
        raise DataError(
            f"a prediction for question {foreign[0]}, which has no annotation ({count}): "
            "score against the split that was predicted"
        )
