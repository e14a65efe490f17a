"""What a model says about pairs of an image and a text, as plain values for JSON, pictures and pages."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from mmnas.data.features import Regions
from mmnas.predict import pictures
from mmnas.predict.drawing import Canvas

Box = tuple[float, float, float, float]
"""xyxy pixels of the image."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What all tasks say about a pair.

    `image` is its name, `words` (T) are those of `text` that were read, `regions` its K regions. `word_weights`
    (T,) and `region_weights` (K,) are what the head's poolings attend to; each sums to one. For grounding, the
    latter are the regions' scores. `attention` holds the weights (h, Q, K) of every block by name, if asked for.
    """

    key: ClassVar[str]
    """What the text is called in JSON and by flags."""
    image: str
    text: str
    words: tuple[str, ...]
    regions: Regions
    word_weights: np.ndarray
    region_weights: np.ndarray
    attention: dict[str, np.ndarray]

    def record(self) -> dict[str, Any]:
        """Return the prediction as JSON has it."""
        return {"image": self.image, self.key: self.text, **self._said()}

    def region_records(self) -> list[dict[str, Any]]:
        """Return box and weight of each region as JSON has them."""
        boxes = map(tuple, self.regions.boxes.tolist())
        return [{"box": _corners(b), "weight": w} for b, w in zip(boxes, self.region_weights.tolist(), strict=True)]

    def draw(self, image: Image.Image | None = None) -> Image.Image:
        """Return a picture of the prediction; without an image, on an empty one of its size."""
        height, width = (max(1, int(side)) for side in self.regions.image_size)
        return self._draw(image or (width, height))

    def _said(self) -> dict[str, Any]:
        raise NotImplementedError

    def _draw(self, image: Canvas) -> Image.Image:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Answers(Prediction):
    """Answers to a question and their probabilities, best first."""

    key: ClassVar[str] = "question"
    answers: tuple[tuple[str, float], ...]

    def _said(self) -> dict[str, Any]:
        return {"answers": [{"answer": answer, "score": score} for answer, score in self.answers]}

    def _draw(self, image: Canvas) -> Image.Image:
        return pictures.draw_answers(image, self.text, self.answers, self.regions.boxes, self.region_weights)


@dataclass(frozen=True, eq=False)
class Grounding(Prediction):
    """The box that an expression means and its score; `best` are up to five, none of which covers a better one."""

    key: ClassVar[str] = "expression"
    box: Box
    score: float
    best: tuple[tuple[Box, float], ...]

    def _said(self) -> dict[str, Any]:
        best = [{"box": _corners(box), "score": score} for box, score in self.best]
        return {"box": _corners(self.box), "score": self.score, "best": best}

    def _draw(self, image: Canvas) -> Image.Image:
        return pictures.draw_grounding(image, self.text, *zip(*self.best, strict=True))


@dataclass(frozen=True, eq=False)
class Match(Prediction):
    """The probability that a caption fits an image."""

    key: ClassVar[str] = "caption"
    score: float

    def _said(self) -> dict[str, Any]:
        return {"score": self.score}

    def _draw(self, image: Canvas) -> Image.Image:
        shown = [(self.text, self.score)]
        return pictures.draw_answers(image, self.image, shown, self.regions.boxes, self.region_weights)


@dataclass(frozen=True)
class Failure:
    """A pair that cannot be answered, and why, in one line."""

    image: str
    text: str
    reason: str


def _corners(box: Box) -> dict[str, float]:
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
