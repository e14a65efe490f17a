"""Whether rows can be submitted to the VQA evaluation server.

That takes `[{"answer": str, "question_id": int}, ...]` with every question of the split exactly once.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

from mmnas.schema import shown

_FORM = '{"answer": text, "question_id": integer}'


def find_faults(rows: Any, question_ids: Collection[int], answers: Collection[str] | None = None) -> list[str]:
    """Return what is wrong with a result's rows, a line for each kind of fault; nothing when it can be submitted.

    Each line has the number of such faults and the first one. `answers` is the vocabulary that an answer must
    come from; None allows any text.
    """
    if not isinstance(rows, list):
        return [f"must hold a list of {_FORM}: write it by --RUN=test"]
    kind = type(next(iter(question_ids), 0))  # text for one's own data
    entries = [row for row in rows if _is_well_formed(row, kind)]
    counts, asked = Counter(row["question_id"] for row in entries), set(question_ids)
    known = None if answers is None else set(answers)
    faults = {
        f"entries are not of the form {_FORM}: write them by --RUN=test": [
            f"{shown(row)} at index {index}" for index, row in enumerate(rows) if not _is_well_formed(row, kind)
        ],
        "questions are answered more than once: keep one answer of each": [
            f"question {number}, {count} times" for number, count in counts.items() if count > 1
        ],
        "answers are to questions that are not in the questions file: it is of another split": [
            f"question {number}" for number in counts if number not in asked
        ],
        "questions have no answer: score the whole split": [
            f"question {number}" for number in question_ids if number not in counts
        ],
        "answers are not of the checkpoint: it is not the one that wrote them": [
            f"{shown(row['answer'])} to question {row['question_id']}"
            for row in entries
            if known is not None and row["answer"] not in known
        ],
    }
    return [f"{len(examples)} {fault}; first {examples[0]}" for fault, examples in faults.items() if examples]


def _is_well_formed(row: Any, kind: type) -> bool:
    """Whether an entry has exactly the two keys, of exactly their types: true is not a question id."""
    return type(row) is dict and {key: type(value) for key, value in row.items()} == {
        "answer": str,
        "question_id": kind,
    }
