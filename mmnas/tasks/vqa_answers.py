"""The answers that a VQA model learns, and what the training data has beside them."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from mmnas.config import DataConfig
from mmnas.data.own import OWN
from mmnas.data.vqa_json import MIN_COUNT, Annotation, answer_vocabulary
from mmnas.errors import DataError
from mmnas.metrics.vqa_accuracy import ANSWERS, EXACT
from mmnas.schema import shown
from mmnas.text.answers import normalize_for_vocabulary

log = logging.getLogger(__name__)

MANY_RARE = 0.2
"""The share of questions with a rare answer from which on a warning says so."""
MANY_EMPTY = 0.5
"""The share of questions without a target from which on a warning says why."""
EXAMPLES = 3


def least_count(data: DataConfig) -> int:
    """Return how often an answer may occur without being learned: as configured, else 8, or 0 for own data."""
    if data.answer_min_count is not None:
        return data.answer_min_count
    return 0 if data.dataset == OWN else MIN_COUNT


def answers_to_learn(annotations: Iterable[Annotation], least: int) -> list[str]:
    """Return the answers that occur more than `least` times. Raises `DataError` when there are none."""
    answers, rare = answer_vocabulary(annotations, least)
    remedy = "lower data.answer_min_count by --CFG"
    if not answers:
        raise DataError(f"no answer occurs more than {least} times in the annotations of train and val: {remedy}")
    if rare > MANY_RARE:
        log.warning("%.0f %% of the questions have an answer that occurs %d times or fewer, not learned; %s",
                    100 * rare, least, remedy)  # fmt: skip
    return answers


def check_targets(empty: int, annotations: Sequence[Annotation], known: Sequence[str]) -> None:
    """Say how many questions have none of the answers to learn. Raises `DataError` if that is so for all."""
    share = empty / len(annotations)
    if share <= MANY_EMPTY:
        log.info("%.2f %% of the training questions have an empty target", 100 * share)
        return
    answers = Counter(normalize_for_vocabulary(each.multiple_choice_answer) for each in annotations)
    others = [answer for answer, _ in answers.most_common() if answer not in set(known)][:EXAMPLES]
    fault = (
        f"{100 * share:.2f} % of the training questions have an empty target: their answers, such as "
        f"{', '.join(map(shown, others))}, are not among the {len(known)} of the model; fine-tune with "
        "--NEW_ANSWERS for a new answer list, or lower data.answer_min_count by --CFG for a new run"
    )
    if empty == len(annotations):
        raise DataError(fault)
    log.warning("%s", fault)


def is_exact(annotations: Sequence[Annotation], data: DataConfig) -> bool:
    """Whether the score is exact match: as configured, or where own questions do not have ten answers each."""
    few = data.dataset == OWN and any(len(annotation.answers) != ANSWERS for annotation in annotations)
    return few or data.metric == EXACT


def few_answers(annotations: Sequence[Annotation], split: str, data: DataConfig) -> str | None:
    """Return what is wrong with VQA accuracy for questions that too few annotators answered, or None."""
    few = sum(len(annotation.answers) < ANSWERS for annotation in annotations)
    if not few or data.metric == EXACT or data.dataset == OWN:  # own data of this kind is scored by exact match
        return None
    return (
        f"{few} of {len(annotations)} questions of {split} have fewer than ten answers: in VQA accuracy, what "
        "all of 1, 2 or 3 annotators answered scores 0, 33 or 67 %; --METRIC=exact scores by exact match"
    )
