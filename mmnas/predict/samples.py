"""The samples of a split with their references, read without features, and what a result scores on each.

Letters: I images, C captions, E expressions.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mmnas.boxes import pairwise_iou
from mmnas.boxes.geometry import paired_iou
from mmnas.config import Config
from mmnas.data import vqa_json
from mmnas.data.named import find_expressions, question_files, read_captions
from mmnas.data.own import label
from mmnas.metrics.grounding import CORRECT_IOU
from mmnas.metrics.retrieval import RECALLS, folds, retrieval_ranks
from mmnas.metrics.vqa_accuracy import EXACT, FORMS, vqa_accuracy
from mmnas.predict.stored import Row, StoredResult
from mmnas.tasks.itm import PROTOCOLS
from mmnas.tasks.vqa_answers import is_exact

ROUNDING = 0.005  # of a figure that is computed anew from the same data
Figures = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Samples:
    """Questions, expressions, or images with captions; and what is right for them."""

    rows: list[Row]
    """The samples as a result lists them; matching has rows of images, then of captions, but a sample per image."""
    dataset: Any
    """What `Task.score` reads of a data set."""
    image_ids: list[int]
    texts: list[str]
    references: list[str]
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """Reference boxes (E, 4), for grounding."""


@dataclass(frozen=True)
class Scores:
    """What a result scores on each sample, in percent, and what it predicted there."""

    figures: Figures
    """By section and name, scores whose mean is a figure; NaN for samples not of it. The headline is first."""
    predicted: list[str]
    wrong: np.ndarray
    """Whether the prediction is wrong, of each sample."""
    boxes: np.ndarray | None = None
    """Predicted boxes (E, 4), for grounding."""

    @property
    def headline(self) -> tuple[str, np.ndarray]:
        """The name and the scores of the main figure."""
        return next(iter(self.figures[""].items()))


def read_samples(config: Config, split: str) -> Samples:
    """Return the samples of a split below the data path of `config`. Raises `DataError` for what is not there."""
    return {"vqa": _read_questions, "vgd": _read_expressions, "itm": _read_captions}[config.task](config, split)


def score_samples(result: StoredResult, samples: Samples) -> Scores:
    """Score a result. Raises `DataError` when it is of other samples."""
    result.require_same_samples(samples.rows, f"{result.split} in {result.config.paths.data}")
    return {"vqa": _score_answers, "vgd": _score_boxes, "itm": _score_matches}[result.config.task](result, samples)


def drift(result: StoredResult, scores: Scores) -> str | None:
    """Say that a result scored otherwise when it was written, with other references; None if it did not."""
    name, values = scores.headline
    now = values.mean()
    then = result.provenance["summary"].get(name, now)
    if abs(then - now) < ROUNDING:
        return None
    return f"was scored with other data: {name} was {then:.2f}, is {now:.2f}"


def _read_questions(config: Config, split: str) -> Samples:
    files = question_files(config.paths.data, config.data.dataset)
    questions, annotations = files.read("questions", split), None
    if split != "test":
        found = {each.question_id: each for each in files.read("annotations", split)}
        paths = (files.path(kind, split) for kind in vqa_json.KINDS)
        vqa_json.check_pairs(questions, list(found.values()), *paths)
        annotations = [found[question.question_id] for question in questions]
    ids, images, texts = zip(*((each.question_id, each.image_id, each.text) for each in questions), strict=True)
    dataset = SimpleNamespace(question_ids=np.array(ids), annotations=annotations)
    references = [annotation.multiple_choice_answer for annotation in annotations or ()]
    return Samples([Row(number) for number in ids], dataset, list(images), list(texts), references)


def _score_answers(result: StoredResult, samples: Samples) -> Scores:
    answers = {row.question_id: row.answer for row in result.rows if row.question_id is not None}
    annotations = samples.dataset.annotations
    form = EXACT if is_exact(annotations, result.config.data) else FORMS[0]
    found = vqa_accuracy(answers, annotations, form)["question"]
    scores = np.array([found[row.question_id] for row in result.rows])
    figures: Figures = {"": {"overall": scores}}
    for kind in ("answer_type", "question_type"):
        names = np.array([getattr(annotation, kind) for annotation in annotations])
        groups = [name for name in np.unique(names).tolist() if name.strip()]
        figures[kind.replace("_", " ")] = {name: np.where(names == name, scores, np.nan) for name in groups}
    return Scores(figures, [row.answer for row in result.rows], scores < 50)


def _read_expressions(config: Config, split: str) -> Samples:
    found = find_expressions(config.paths.data, config.data.dataset, [split])[split]
    rows = [Row(None, label(each.image_id), each.ref_id, each.sent_id, each.tokens) for each in found]
    texts, boxes = [" ".join(each.tokens) for each in found], np.array([each.box for each in found], np.float32)
    return Samples(rows, SimpleNamespace(expressions=found), [each.image_id for each in found], texts, texts, boxes)


def _score_boxes(result: StoredResult, samples: Samples) -> Scores:
    boxes, of_image = np.array([row.box for row in result.rows], np.float32), defaultdict(list)
    ious = paired_iou(torch.from_numpy(boxes), torch.from_numpy(samples.boxes)).numpy()
    for index, image_id in enumerate(samples.image_ids):
        of_image[image_id].append(index)
    predicted = []
    for box, image_id in zip(boxes, samples.image_ids, strict=True):
        met = pairwise_iou(box[None], samples.boxes[of_image[image_id]])[0]  # for what the box would be right
        text = samples.texts[of_image[image_id][met.argmax()]]
        predicted.append(text if met.max() >= CORRECT_IOU else "nothing that was described")
    right = ious >= CORRECT_IOU
    return Scores({"": {"accuracy": 100.0 * right, "mean IoU": 100.0 * ious}}, predicted, ~right, boxes)


def _read_captions(config: Config, split: str) -> Samples:
    _, test, parts = PROTOCOLS[config.data.protocol]
    captions = read_captions(config.paths.data, config.data.dataset, test if split == "test" else split)
    names, texts = [label(image) for image in captions.image_ids], captions.texts
    rows = [Row(None, image) for image in names]
    triples = zip(captions.owners, captions.ids, texts, strict=True)
    rows += [Row(None, names[own], caption=number, text=text) for own, number, text in triples]
    dataset = SimpleNamespace(captions=captions, folds=folds(len(names), parts))
    firsts = np.searchsorted(captions.owners, np.arange(len(names)))
    ids = list(map(int, captions.image_ids))
    return Samples(rows, dataset, ids, [f"image {image}" for image in names], [texts[first] for first in firsts])


def _score_matches(result: StoredResult, samples: Samples) -> Scores:
    captions = samples.dataset.captions
    texts = captions.texts
    logits = result.array("scores", "f", len(samples.image_ids), len(texts))
    figures: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: np.zeros(len(logits))))
    predicted: list[str] = []
    for fold in samples.dataset.folds:
        group, own = captions.of(fold), captions.images(fold.start, fold.stop).owners
        block = logits[fold, group]
        weight = 100 * len(logits) / len(samples.dataset.folds) / len(block)  # a figure is the mean over folds
        image_ranks, ranks = retrieval_ranks(block, own)
        predicted += [texts[group.start + best] for best in block.argmax(axis=1).tolist()]
        for k in RECALLS:
            found = np.bincount(own, ranks <= k) * len(image_ranks) / len(own)  # their mean is that over captions
            parts = weight * (image_ranks <= k), weight * found
            figures[""]["rsum"][fold] += parts[0] + parts[1]
            figures["captions of an image"][f"R@{k}"][fold] = parts[0]
            figures["images of a caption"][f"R@{k}"][fold] = parts[1]
    return Scores(figures, predicted, figures["captions of an image"]["R@1"] == 0)
