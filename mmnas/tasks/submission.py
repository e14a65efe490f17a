"""Whether a result file can be submitted to the VQA evaluation server.

That takes `[{"answer": str, "question_id": int}, ...]` with every question of the split exactly once.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

from mmnas.errors import DataError
from mmnas.files import PathLike, read_json
from mmnas.schema import shown

_FORM = '{"answer": text, "question_id": whole number}'


def check_submission(
    result_path: PathLike, question_ids: Collection[int], answers: Collection[str] | None = None
) -> list[str]:
    """Return what is wrong with a result file, a line for each kind of fault; nothing when it can be submitted.

    Each line has the number of such faults and the first one. `answers` is the vocabulary that an answer must
    come from; None takes any text.
    """
    try:
        rows = read_json(result_path, "result file")
    except DataError as exception:
        return [str(exception)]
    if not isinstance(rows, list):
        return [f"{result_path} must hold a list of {_FORM}: write it by --RUN=test"]
    malformed = [f"{shown(row)} at place {place}" for place, row in enumerate(rows) if not _well_formed(row)]
    entries = [row for row in rows if _well_formed(row)]
    faults = {
        f"entries are not of the form {_FORM}: write them by --RUN=test": malformed,
        **_id_faults([row["question_id"] for row in entries], question_ids),
        "answers are not of the checkpoint: it is not the one that wrote them": _unknown(entries, answers),
    }
    return [
        f"{result_path}: {len(examples)} {fault}; first {examples[0]}"
        for fault, examples in faults.items()
        if examples
    ]


def _well_formed(row: Any) -> bool:
    """Whether an entry has the two keys alone and their very types: true is no question id."""
    return (
        type(row) is dict
        and row.keys() == {"answer", "question_id"}
        and type(row["answer"]) is str
        and type(row["question_id"]) is int
    )


def _id_faults(answered: list[int], question_ids: Collection[int]) -> dict[str, list[str]]:
    """Return the question ids that are there more than once, are foreign, or lack, by what is wrong."""
    counts, asked = Counter(answered), set(question_ids)
    return {
        "questions are answered more than once: keep one answer of each": [
            f"question {question_id}, {count} times" for question_id, count in counts.items() if count > 1
        ],
        "answers are to questions that are not in the questions file: it is of another split": [
            f"question {question_id}" for question_id in counts if question_id not in asked
        ],
        "questions have no answer: score the whole split": [
            f"question {question_id}" for question_id in question_ids if question_id not in counts
        ],
    }


def _unknown(entries: list[dict[str, Any]], answers: Collection[str] | None) -> list[str]:
    known = None if answers is None else set(answers)
    return [
        f"{shown(entry['answer'])} to question {entry['question_id']}"
        for entry in entries
        if known is not None and entry["answer"] not in known
    ]
