"""Visual grounding on RefCOCO, RefCOCO+ and RefCOCOg (paper sections 3.3 and 4): data set, head, score, check.

Letters: B batch, N regions of the batch, K regions of an image, E expressions. Boxes are xyxy pixels, inclusive.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from mmnas.batch import Batch
from mmnas.boxes import nms, pairwise_iou
from mmnas.boxes.geometry import clip_boxes, decode_boxes, paired_iou, unnormalize_offsets
from mmnas.config import FEATURE_SIZE, Config
from mmnas.data import refs
from mmnas.data.features import Regions, RegionSource
from mmnas.data.named import expression_splits, find_expressions
from mmnas.data.own import EXPRESSIONS, OWN, label
from mmnas.data.refs import Expression
from mmnas.data.sources import KINDS, feature_width, grounding_features
from mmnas.errors import ConfigError, DataError
from mmnas.metrics.grounding import CORRECT_IOU, grounding_accuracy, proposal_quality
from mmnas.models.heads import GroundingHead
from mmnas.tasks.base import Record, Result, Task
from mmnas.tasks.grounding_loss import LOSSES, grounding_loss, loss_totals
from mmnas.tasks.report import Report
from mmnas.tasks.result import take_scores
from mmnas.tasks.vgd_data import VGDDataset
from mmnas.text.vocabulary import Vocabulary, warn_missing

log = logging.getLogger(__name__)

BEST_BOXES, NMS_IOU = 5, 0.5
"""A prediction lists this many boxes, none of which overlaps a better one by more than this IoU."""

PUBLISHED_EXPRESSIONS = {
    "refcoco": {"train": 120624, "val": 10834, "testA": 5657, "testB": 5095},
    "refcoco+": {"train": 120191, "val": 10758, "testA": 5726, "testB": 4889},
}
PUBLISHED_REGIONS = {"vg_woref": (100, 100), "coco_mrcn": (1, 100)}
NO_REGION = (
    "no region meets any expression: boxes and expressions are of different images, or in other units; a bbox is "
    "[x, y, width, height] in pixels"
)


class VGDTask(Task):
    """Referring expressions and the boxes that they mean, scored by accuracy at IoU 0.5."""

    name = "vgd"
    splits = ("train", "train+val")
    headline = "accuracy"
    flags = {"--DATASET": "data.dataset", "--FEAT": "data.feature_kind", "--LOSS": "training.loss"}
    choices = {"data.dataset": (*refs.DATASETS, OWN), "data.feature_kind": KINDS, "training.loss": LOSSES}

    @classmethod
    def settle(cls, config: Config) -> Config:
        """Let the width of the features follow from their kind."""
        config = super().settle(config)
        model, width = config.model, feature_width(config.data.feature_kind)
        if model.feature_size not in (width, FEATURE_SIZE):
            raise ConfigError(f"model.feature_size {model.feature_size} is not that of --FEAT: leave it out")
        return replace(config, model=replace(model, feature_size=width))

    def splits_of(self, run: str) -> tuple[str, ...]:
        """Return val, or every test split that the data set has."""
        if run != "test":
            return (run,)
        return tuple(split for split in self._splits() if split.startswith("test"))

    def build_vocabularies(self) -> dict[str, list[str]]:
        """Make words from the expressions of all splits, as published; warn about missing splits."""
        splits = self._splits()
        found = self._find(splits)
        warn_missing("expressions", [split for split in splits if split not in found])
        return {"tokens": list(Vocabulary.from_token_lists(_token_lists(found)).words)}

    def _splits(self) -> tuple[str, ...]:
        return expression_splits(self.config.paths.data, self.config.data.dataset)

    def _find(self, splits: Iterable[str]) -> dict[str, list[Expression]]:
        return find_expressions(self.config.paths.data, self.config.data.dataset, splits)

    def training_set(self) -> VGDDataset:
        """Join the splits that --SPLIT names."""
        expressions = [entry for split in self.config.split.split("+") for entry in self._find([split])[split]]
        return self._dataset(expressions, "training expressions", self.config.training.loss)

    def check_samples(self, batch: Batch) -> None:
        """Refuse samples of which none has a region to learn."""
        if not batch["score_weight"].any():
            raise DataError(f"{NO_REGION} (of {len(batch['index'])} read)")

    def evaluation_set(self, split: str) -> VGDDataset:
        """Return val or a test split; one that the data set does not have is an error that lists them."""
        return self._dataset(self._find([split])[split], f"{split} expressions", None)

    def _dataset(self, expressions: list[Expression], what: str, loss: str | None) -> VGDDataset:
        warned = self.made_by is not None
        regions = self.require_features([expression.image_id for expression in expressions], what)
        if self.made_by and not warned:
            log.warning(
                "the published detector was trained on images of RefCOCO's val and test splits: with its features, "
                "scores do not compare with published ones; see docs/data.md"
            )
        return VGDDataset(expressions, regions, self.words, self.config.data, loss)

    def open_features(self) -> RegionSource:
        """Return the feature store or the folder that the paths name."""
        paths, data = self.config.paths, self.config.data
        return grounding_features(
            paths.data, paths.features, data.dataset, data.feature_kind, self.config.model.feature_size
        )

    def build_head(self, **sizes: Any) -> GroundingHead:
        """Build the head with a score and four box offsets per region."""
        return GroundingHead(softmax=self.config.training.loss != "bce", **sizes)

    def with_totals(self, batch: Batch) -> Batch:
        """Add the numbers of scored samples and matching regions, so that parts add up to the whole."""
        return batch | loss_totals(batch)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Score loss plus half the box loss; see `grounding_loss`."""
        scores, offsets = model(batch)  # (B, N), (B, N, 4)
        if "scored_samples" not in batch:
            batch = self.with_totals(batch)
        return grounding_loss(scores, offsets, batch, self.config.training.loss)

    def predict(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Take the box of the region with the highest score, moved by its regression, and the five best.

        With references in the batch, records also hold the IoU of the box and the quality of the regions.
        """
        scores, offsets = model(batch)  # (B, N), (B, N, 4)
        moved = decode_boxes(batch["boxes"], unnormalize_offsets(offsets.float()))
        boxes = clip_boxes(moved, batch["image_sizes"][:, None])  # (B, N, 4)
        self.require_finite(batch, scores, offsets, boxes)
        probabilities = scores.exp() if self.config.training.loss != "bce" else scores.sigmoid()
        records = self.choose(batch, scores.argmax(dim=1), probabilities, boxes)
        table = torch.cat([probabilities[..., None].float(), boxes, batch["boxes"]], dim=2)  # (B, N, 9)
        return self.with_scores(records, table.masked_fill(~batch["region_mask"][..., None], torch.nan))

    def choose(self, batch: Batch, best: Tensor, probabilities: Tensor, boxes: Tensor) -> list[Record]:
        """Return the records of samples whose best region (B,) is known, from all moved boxes (B, N, 4)."""
        rows = torch.arange(len(best), device=best.device)
        columns: dict[str, Any] = {
            "index": batch["index"],
            "box": boxes[rows, best],
            "score": probabilities[rows, best],
        }
        if "reference" in batch:
            columns["iou"] = paired_iou(boxes[rows, best], batch["reference"])
            regions = paired_iou(batch["boxes"], batch["reference"][:, None]).cpu()  # (B, N)
            quality = proposal_quality(regions, batch["region_mask"].cpu())
            columns["best_region_iou"], columns["matching_regions"] = quality
        lists = {name: column.tolist() for name, column in columns.items()}
        lists["best"] = _best_boxes(boxes, probabilities, batch["region_mask"])
        return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]

    def score(self, predictions: list[Record], dataset: VGDDataset) -> Result:
        """Accuracy and the regions' oracle in percent; the metrics also hold the random region."""
        columns = ([entry[key] for entry in predictions] for key in ("iou", "best_region_iou", "matching_regions"))
        metrics = grounding_accuracy(*columns)
        rows = [_row(entry, dataset.expressions[entry["index"]]) for entry in predictions]
        summary = {name: metrics[name] for name in ("accuracy", "oracle")}
        return Result(rows, summary, metrics, take_scores(predictions))

    def check(self, report: Report, full: bool) -> None:
        """Check expressions and features; a test split may be missing, val is scored where it is held out."""
        data = self.config.data
        report.title(f"files under {self.config.paths.data}")
        found = self._check_files(report)
        report.title("expressions")
        published = PUBLISHED_EXPRESSIONS.get(data.dataset, {})
        for split in found if data.dataset == OWN else self._splits():
            report.count(f"expressions of {split}", len(found.get(split, ())), published.get(split))
        report.words(_token_lists(found), self.config)
        report.title("region features")
        images = {split: [entry.image_id for entry in entries] for split, entries in found.items()}
        references, matches = defaultdict(list), []
        for entry in (entry for entries in found.values() for entry in entries):
            references[entry.image_id].append(entry.box)

        def match(image_id: int, image: Regions) -> None:
            ious = pairwise_iou(image.boxes[: data.max_regions], np.array(references[image_id], np.float32))
            matches.extend((ious.max(axis=0) >= CORRECT_IOU).tolist())  # (K, E) -> (E,)

        with report.catching():
            usual = None if data.dataset == OWN else PUBLISHED_REGIONS[data.feature_kind]
            report.features(self.open_features(), images, ("train", "val"), full, usual, match)
        if matches:
            what = "expressions of these images without a region to learn"
            report.percentage(what, matches.count(False), len(matches))
            if not any(matches):
                report.problem(NO_REGION)

    def _check_files(self, report: Report) -> dict[str, list[Expression]]:
        """Show the original and the processed files; return the expressions of every split that can be read."""
        dataset = self.config.data.dataset
        if dataset == OWN:
            report.file(Path(self.config.paths.data, EXPRESSIONS))
            with report.catching():
                return self._find(self._splits())
            return {}
        splits, folder = refs.splits_of(dataset), refs.expressions_folder(self.config.paths.data, dataset)
        originals = [report.file(folder / name) for name in ("instances.json", f"refs({refs.split_by(dataset)}).p")]
        kept = [split for split in splits if (folder / f"{split}.json").is_file()]
        for split in kept:
            report.file(folder / f"{split}.json")
        found: dict[str, list[Expression]] = {}
        together = not all(originals) and not kept  # one fault for all splits
        for each in [splits] if together else [[split] for split in splits]:
            needed = together or all(originals) or each[0] in (*kept, "train", "val")
            with report.catching(needed):
                found |= self._find(each)
        return found


def _token_lists(found: Mapping[str, Sequence[Expression]]) -> Iterable[list[str]]:
    return (expression.tokens for expressions in found.values() for expression in expressions)


def _best_boxes(boxes: Tensor, scores: Tensor, mask: Tensor) -> list[list[Record]]:
    """Return up to five boxes per sample by descending score, after suppression of what overlaps a better one."""
    found = []
    for row, values, valid in zip(boxes.cpu().numpy(), scores.cpu().numpy(), mask.cpu().numpy(), strict=True):
        row, values = row[valid], values[valid]
        kept = nms(row, values, NMS_IOU)[:BEST_BOXES]
        found.append([{"box": row[index].tolist(), "score": float(values[index])} for index in kept])
    return found


def _row(prediction: Record, expression: Expression) -> Record:
    """Return one expression's row of the result file."""
    said = {key: getattr(expression, key) for key in ("ref_id", "sent_id", "tokens")}
    return {
        "image_id": label(expression.image_id),
        **said,
        **{key: prediction[key] for key in ("box", "score", "iou", "best")},
    }
