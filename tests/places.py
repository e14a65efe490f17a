"""Where the files of a demo world lie, and the expressions in them."""

from mmnas.data.refs import find_expressions
from mmnas.data.vqa_json import QuestionFiles


def question_places(root, split):
    return QuestionFiles(root).places("questions", split)


def annotation_places(root, split):
    return QuestionFiles(root).places("annotations", split)


def require_questions(root, split):
    return QuestionFiles(root).path("questions", split)


def require_annotations(root, split):
    return QuestionFiles(root).path("annotations", split)


def require_expressions(root, dataset, split):
    return find_expressions(root, dataset, [split])[split]
