"""`python -m mmnas check-submission RESULT QUESTIONS`: whether the VQA evaluation server would take a result."""

import argparse
from pathlib import Path
from typing import Any

from mmnas.data.vqa_json import read_questions
from mmnas.errors import CheckpointError, DataError, safe
from mmnas.files import read_json
from mmnas.tasks.submission import find_faults


def add(commands: Any) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("check-submission", help="check a VQA result before submitting it")
    parser.add_argument("result", help="the file that --RUN=test wrote")
    parser.add_argument("questions", help="questions file of the split that is submitted")
    parser.add_argument("--CKPT_PATH", metavar="FILE", help="checkpoint whose answers the result must come from")
    parser.set_defaults(run=check_submission)


def check_submission(options: argparse.Namespace) -> int:
    """Print every fault, or that there is none; return 1 or 0."""
    questions = [question.question_id for question in read_questions(options.questions)]
    answers = None if options.CKPT_PATH is None else _answers(options.CKPT_PATH)
    try:
        faults = find_faults(read_json(options.result, "result file"), questions, answers)
    except DataError as exception:
        print(f"fault: {exception}")
        return 1
    faults += _changes(options.result)
    for fault in faults:
        print(safe(f"fault: {options.result}: {fault}"))
    if not faults:
        known = f", each one of the {len(answers)} of {options.CKPT_PATH}" if answers else ""
        print(safe(f"{options.result}: one answer to each of {len(questions)} questions{known}"))
    return 1 if faults else 0


def _changes(result: str) -> list[str]:
    """Return a fault if the result is not the one that its provenance was written for."""
    from mmnas.run.results import changed_files  # with torch, which would slow down --help

    changed = ", ".join(changed_files(Path(result)))
    return [f"{changed} changed after the .meta.json file was written: score again"] if changed else []


def _answers(path: str) -> list[str]:
    """Return the answers that a checkpoint can give."""
    from mmnas.engine.checkpoint import load_checkpoint  # with torch, which would slow down --help

    vocabularies = getattr(load_checkpoint(path), "vocabularies", {})
    if "answers" not in vocabularies:
        raise CheckpointError(f"{path} holds no answers: name a checkpoint that train_vqa.py of this project wrote")
    return vocabularies["answers"]
