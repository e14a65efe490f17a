"""`python -m mmnas check-submission RESULT QUESTIONS`: whether the VQA evaluation server would take a result."""

import argparse

from mmnas.data.vqa_json import read_questions
from mmnas.errors import CheckpointError


def add(commands) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("check-submission", help="check a VQA result before submitting it")
    parser.add_argument("result", help="the file that --RUN=test wrote")
    parser.add_argument("questions", help="questions file of the split that is submitted")
    parser.add_argument("--CKPT_PATH", metavar="FILE", help="checkpoint whose answers the result must come from")
    parser.set_defaults(run=check_submission)


def check_submission(options: argparse.Namespace) -> int:
    """Print every fault, or that there is none; return 1 or 0."""
    from mmnas.tasks.submission import check_submission as check  # with torch, which would slow down --help

    questions = [question.question_id for question in read_questions(options.questions)]
    answers = None if options.CKPT_PATH is None else _answers(options.CKPT_PATH)
    faults = check(options.result, questions, answers)
    for fault in faults:
        print(f"fault: {fault}")
    if not faults:
        known = f", each one of the {len(answers)} of {options.CKPT_PATH}" if answers else ""
        print(f"{options.result}: one answer to each of {len(questions)} questions{known}")
    return 1 if faults else 0


def _answers(path: str) -> list[str]:
    """Return the answers that a checkpoint can give."""
    from mmnas.engine.checkpoint import load_checkpoint

    vocabularies = getattr(load_checkpoint(path), "vocabularies", {})
    if "answers" not in vocabularies:
        raise CheckpointError(f"{path} holds no answers: name a checkpoint that train_vqa.py of this project wrote")
    return vocabularies["answers"]
