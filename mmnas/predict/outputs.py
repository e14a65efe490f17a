"""What the outputs of one or several networks of a task say, as the fields of predictions.

Letters: B batch, A answers, N regions of the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmnas.batch import Batch
from mmnas.predict.predictions import Answers, Grounding, Match, Prediction
from mmnas.tasks.base import Task

Fields = dict[str, Any]


def mean_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """Return the mean of what networks give, as float64, in which even 1 - 1e-9 is not yet 1."""
    return torch.stack([each.double().sigmoid() for each in logits]).mean(dim=0)


def read_answers(task: Task, batch: Batch, outputs: Sequence[Tensor], top: int) -> list[Fields]:
    """Return the `top` answers by mean probability of logits (B, A)."""
    task.require_finite(batch, *outputs)
    scores, indices = mean_probabilities(outputs).sort(dim=1, descending=True, stable=True)
    names = task.vocabularies["answers"]
    rows = zip(indices[:, :top].tolist(), scores[:, :top].tolist(), strict=True)
    return [{"answers": tuple((names[i], p) for i, p in zip(*row, strict=True))} for row in rows]


def read_boxes(task: Task, batch: Batch, outputs: Sequence[tuple[Tensor, Tensor]], top: int) -> list[Fields]:
    """Return the best boxes by mean probability of scores (B, N), moved by the mean of offsets (B, N, 4)."""
    softmax = task.config.training.loss != "bce"
    (scores, offsets), *others = outputs
    if others:
        each = [output[0].double() for output in outputs]
        mean = torch.stack([s.exp() if softmax else s.sigmoid() for s in each]).mean(dim=0).clamp(1e-30, 1 - 1e-15)
        scores, offsets = mean.log() if softmax else mean.logit(), torch.stack([o for _, o in outputs]).mean(dim=0)
    records = task.predict(cast(nn.Module, lambda _: (scores, offsets)), batch)
    probabilities = (scores.exp() if softmax else scores.sigmoid()).float().cpu().numpy()
    fields = []
    for record, row, count in zip(records, probabilities, batch["region_mask"].sum(dim=1).tolist(), strict=True):
        best = tuple((tuple(each["box"]), each["score"]) for each in record["best"][:top])
        fields.append(
            {"box": tuple(record["box"]), "score": record["score"], "best": best, "region_weights": row[:count]}
        )
    return fields


def read_matches(task: Task, batch: Batch, outputs: Sequence[Tensor], top: int) -> list[Fields]:
    """Return the mean probability of logits (B, 1)."""
    task.require_finite(batch, *outputs)
    return [{"score": score} for score in mean_probabilities(outputs)[:, 0].tolist()]


READERS: dict[str, tuple[type[Prediction], Callable[[Task, Batch, Sequence[Any], int], list[Fields]]]] = {
    "vqa": (Answers, read_answers),
    "vgd": (Grounding, read_boxes),
    "itm": (Match, read_matches),
}
"""Task -> its kind of prediction, and what reads its fields from the outputs."""
