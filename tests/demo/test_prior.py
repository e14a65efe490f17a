"""The baseline of the VQA demo, by hand."""

import pytest

from mmnas.data.vqa_json import Annotation
from mmnas.demo.prior import prior_accuracy
from mmnas.errors import DataError


def annotated(question_id, answers, question_type, usual=""):
    return Annotation(question_id, 7, question_type, "other", usual, answers)


def train_annotations():
    usual = [("is", "no"), ("is", "yes"), ("is", "yes"), ("how many", "2"), ("how many", "3"), ("is", "no")]
    return [annotated(n, (), kind, answer) for n, (kind, answer) in enumerate(usual)]


def test_prior_gives_each_type_its_usual_answer_and_unseen_types_the_overall_one():
    annotations = [
        annotated(1, ("no",) * 10, "is"),  # "no" and "yes" tie: the first seen, "no"
        annotated(2, ("yes",) * 10, "is"),
        annotated(3, ("3",) * 8 + ("2",) * 2, "how many"),
        annotated(4, ("no",) * 3 + ("red",) * 7, "what"),
    ]
    result = prior_accuracy(iter(train_annotations()), iter(annotations))
    assert result["question"] == {1: 100, 2: 0, 3: 60, 4: 90}
    assert result["overall"] == 62.5


def test_prior_takes_the_form_and_needs_training_annotations():
    two = [annotated(1, (), "how many", "two")]
    annotations = [annotated(2, ("2",) * 10, "how many")]
    assert prior_accuracy(two, annotations, "official")["overall"] == 0
    assert prior_accuracy(two, annotations, "published")["overall"] == 100
    with pytest.raises(DataError, match="no training annotations"):
        prior_accuracy([], annotations)
