"""The baseline that the VQA demo compares itself with: each question type's usual answer."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from mmnas.data.vqa_json import Annotation
from mmnas.errors import DataError
from mmnas.metrics.vqa_accuracy import vqa_accuracy


def prior_accuracy(
    train_annotations: Iterable[Annotation], annotations: Iterable[Annotation], form: str = "official"
) -> dict[str, Any]:
    """Score the baseline that looks at neither image nor words: each question type's usual answer.

    The most frequent `multiple_choice_answer` of the type in `train_annotations` (the first seen among
    equals), or of all of them for a type not seen there. Returns what `vqa_accuracy` returns.
    """
    overall: Counter[str] = Counter()
    by_type: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for annotation in train_annotations:
        overall[annotation.multiple_choice_answer] += 1
        by_type[annotation.question_type][annotation.multiple_choice_answer] += 1
    if not overall:
        raise DataError("no training annotations to take the usual answers from: give those of a split")
    usual = {question_type: _most_frequent(counts) for question_type, counts in by_type.items()}
    fallback = _most_frequent(overall)
    annotations = list(annotations)
    predictions = {a.question_id: usual.get(a.question_type, fallback) for a in annotations}
    return vqa_accuracy(predictions, annotations, form)


def _most_frequent(counts: Counter[str]) -> str:
    """The first seen among equals."""
    return max(counts, key=counts.__getitem__)
