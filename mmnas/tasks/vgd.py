"""Visual grounding on RefCOCO, RefCOCO+ and RefCOCOg (paper sections 3.3 and 4): data set, head, evaluation.

Letters: B batch, N regions of the batch, K regions of an image. Boxes are xyxy pixels, inclusive.
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmnas.batch import Batch
from mmnas.boxes import nms
from mmnas.boxes.geometry import clip_boxes, decode_boxes, paired_iou, unnormalise_offsets
from mmnas.config import FEATURE_SIZE, Config
from mmnas.data import refs
from mmnas.data.features import RegionSource, require_images
from mmnas.data.packed import region_counts
from mmnas.data.ragged import Ragged
from mmnas.data.refs import Expression
from mmnas.data.refs_features import KINDS, feature_width, grounding_features
from mmnas.errors import ConfigError
from mmnas.genotype import Genotype
from mmnas.metrics.grounding import grounding_accuracy, proposal_quality
from mmnas.models.heads import GroundingHead
from mmnas.models.network import MMNasNet
from mmnas.tasks.base import Record, Result, Task
from mmnas.tasks.grounding_loss import LOSSES, grounding_loss, grounding_targets, loss_totals
from mmnas.tasks.network import head_sizes, network_of
from mmnas.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

# A record lists so many boxes, of which none overlaps a better one by more than this IoU.
BEST_BOXES, NMS_IOU = 5, 0.5


class VGDDataset(Dataset):
    """Expressions, their images' regions and reference boxes; with a `loss`, targets for training."""

    def __init__(
        self,
        expressions: Sequence[Expression],
        regions: RegionSource,
        words: Vocabulary,
        max_tokens: int,
        max_regions: int,
        loss: str | None = None,
    ) -> None:
        self.regions = regions
        self.max_regions = max_regions
        self.loss = loss
        self.image_ids = np.array([expression.image_id for expression in expressions], np.int64)
        self.references = np.array([expression.box for expression in expressions], np.float32)  # (E, 4)
        self.tokens = Ragged((words.encode(entry.tokens, max_tokens) for entry in expressions), np.int32)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = self.regions[int(self.image_ids[index])]
        boxes, reference = image.boxes[: self.max_regions], self.references[index]
        sample = {
            "features": image.features[: self.max_regions],
            "boxes": boxes,
            "image_sizes": image.image_size,
            "tokens": self.tokens[index].astype(np.int64),
            "reference": reference,
            "index": np.array(index, np.int64),
        }
        return sample if self.loss is None else sample | grounding_targets(boxes, reference, self.loss)

    def region_counts(self) -> np.ndarray | None:
        """Return the regions of each sample where the source knows them, see `region_counts` of packed stores."""
        return region_counts(self.regions, self.image_ids, self.max_regions)


class VGDTask(Task):
    """Referring expressions and the boxes that they mean, scored by accuracy at IoU 0.5."""

    name = "vgd"
    splits = ("train", "train+val")
    headline = "accuracy"
    vocabulary_names = ("tokens",)
    flags = {"--DATASET": "data.dataset", "--FEAT": "data.feature_kind", "--LOSS": "training.loss"}
    choices = {"data.dataset": tuple(refs.DATASETS), "data.feature_kind": tuple(KINDS), "training.loss": LOSSES}

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
        return tuple(split for split in refs.splits_of(self.config.data.dataset) if split.startswith("test"))

    def build_vocabularies(self) -> dict[str, list[str]]:
        """Make words from the expressions of all splits, as published; a split that lacks is warned of."""
        data = self.config.data
        splits = refs.splits_of(data.dataset)
        found = refs.find_expressions(self.config.paths.data, data.dataset, splits)
        absent = [split for split in splits if split not in found]
        if absent:
            log.warning("no expressions of %s: the vocabulary differs from the published one", ", ".join(absent))
        token_lists = (expression.tokens for expressions in found.values() for expression in expressions)
        return {"tokens": list(Vocabulary.from_token_lists(token_lists).words)}

    def training_set(self) -> VGDDataset:
        """Join the splits that --SPLIT names."""
        expressions = [entry for split in self.config.split.split("+") for entry in self._read(split)]
        return self._dataset(expressions, "training expressions", self.config.training.loss)

    def evaluation_set(self, split: str) -> VGDDataset:
        """Return val or a test split; one that the data set does not have is an error that lists them."""
        self.expressions = self._read(split)
        return self._dataset(self.expressions, f"{split} expressions", None)

    def _read(self, split: str) -> list[Expression]:
        return refs.require_expressions(self.config.paths.data, self.config.data.dataset, split)

    def _dataset(self, expressions: list[Expression], what: str, loss: str | None) -> VGDDataset:
        paths, data = self.config.paths, self.config.data
        regions = grounding_features(
            paths.data, paths.features, data.dataset, data.feature_kind, self.config.model.feature_size
        )
        image_ids = [expression.image_id for expression in expressions]
        require_images(regions, image_ids, what)
        _ = regions[image_ids[0]]  # files of the other kind are refused now, not in the first batch
        words = Vocabulary(self.vocabularies["tokens"])
        return VGDDataset(expressions, regions, words, data.max_tokens, data.max_regions, loss)

    def build_model(self, genotype: Genotype, pretrained_words: bool) -> MMNasNet:
        """Build the network with a score and four box offsets per region."""
        head = GroundingHead(softmax=self.config.training.loss != "bce", **head_sizes(self.config))
        return network_of(self.config, genotype, head, self.vocabularies["tokens"], pretrained_words)

    def explain_misfit(self, parameter: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str | None:
        """Name the widths of the region features when these differ."""
        if parameter == "region_stem.linear.weight" and found[:1] == expected[:1]:
            return (
                f"it was trained with region features {found[1]} wide, these are {expected[1]}: "
                "name their kind by --FEAT, or model.feature_size by --CFG"
            )
        return super().explain_misfit(parameter, found, expected)

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

        With references in the batch, records also say how well box and regions meet them.
        """
        scores, offsets = model(batch)  # (B, N), (B, N, 4)
        moved = decode_boxes(batch["boxes"], unnormalise_offsets(offsets.float()))
        boxes = clip_boxes(moved, batch["image_sizes"][:, None])  # (B, N, 4)
        best = scores.argmax(dim=1)  # (B,)
        rows = torch.arange(len(best), device=best.device)
        probabilities = scores.exp() if self.config.training.loss != "bce" else scores.sigmoid()
        columns = {"index": batch["index"], "box": boxes[rows, best], "score": probabilities[rows, best]}
        if "reference" in batch:
            columns["iou"] = paired_iou(boxes[rows, best], batch["reference"])
            regions = paired_iou(batch["boxes"], batch["reference"][:, None]).cpu()  # (B, N)
            quality = proposal_quality(regions, batch["region_mask"].cpu())
            columns["best_region_iou"], columns["matching_regions"] = quality
        lists = [column.tolist() for column in columns.values()]
        records = [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
        best_boxes = _best_boxes(boxes, probabilities, batch["region_mask"])
        for record, found in zip(records, best_boxes, strict=True):
            record["best"] = found
        return records

    def score(self, records: list[Record], split: str) -> Result:
        """Accuracy in percent beside the regions' oracle; the metrics also hold the random region."""
        columns = ([record[key] for record in records] for key in ("iou", "best_region_iou", "matching_regions"))
        metrics = grounding_accuracy(*columns)
        predictions = [_prediction(record, self.expressions[record["index"]]) for record in records]
        return Result(predictions, {name: metrics[name] for name in ("accuracy", "oracle")}, metrics)


def _best_boxes(boxes: Tensor, scores: Tensor, mask: Tensor) -> list[list[Record]]:
    """Return up to five boxes per sample by descending score, after suppression of what overlaps a better one."""
    found = []
    for row, values, valid in zip(boxes.cpu().numpy(), scores.cpu().numpy(), mask.cpu().numpy(), strict=True):
        row, values = row[valid], values[valid]
        kept = nms(row, values, NMS_IOU)[:BEST_BOXES]
        found.append([{"box": row[place].tolist(), "score": float(values[place])} for place in kept])
    return found


def _prediction(record: Record, expression: Expression) -> Record:
    """Return what the result file says of one expression."""
    return {
        "image_id": expression.image_id,
        "ref_id": expression.ref_id,
        "sent_id": expression.sent_id,
        "tokens": expression.tokens,
        **{key: record[key] for key in ("box", "score", "iou", "best")},
    }
