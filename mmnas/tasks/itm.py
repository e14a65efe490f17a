"""Image-text matching on Flickr30K and COCO (paper sections 3.3 and 4): data set, head, losses, evaluation.

Letters: B batch, I images, C captions.
"""

import logging
from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from msgspec.structs import replace
from torch import Tensor, nn

from mmnas.batch import Batch
from mmnas.config import Config
from mmnas.data import scan_precomp
from mmnas.data.features import require_images
from mmnas.data.matching import ImageDataset, PairDataset
from mmnas.data.ragged import Ragged
from mmnas.data.scan_precomp import Captions
from mmnas.errors import CheckpointError, ConfigError, DataError
from mmnas.genotype import Genotype
from mmnas.metrics.retrieval import FOLDS, RECALLS, folds, mean_figures, retrieval_figures, rsum
from mmnas.models.heads import FusionHead
from mmnas.models.network import MMNasNet
from mmnas.models.pair_scorer import PairScorer
from mmnas.tasks.base import Record, Result, Task, Tools, weight_share
from mmnas.tasks.hard_negatives import hard_negatives, random_negatives
from mmnas.tasks.network import head_sizes, network_of
from mmnas.tasks.retrieval import best_lists, score_images
from mmnas.text.tokenizer import tokenize
from mmnas.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

LOSSES = ("bce", "margin")
MARGIN = 0.2
# Protocol -> its data set, the split that it calls test, and the folds whose figures it averages.
PROTOCOLS = {
    "flickr1k": ("flickr", "test", 1),
    "coco5k": ("coco", "testall", 1),
    "coco1k": ("coco", "testall", FOLDS),
}


class ITMTask(Task):
    """Captions for images and images for captions, scored by recall@k."""

    name = "itm"
    splits = ("train",)
    headline = "rsum"
    vocabulary_names = ("tokens",)
    flags = {"--DATASET": "data.dataset", "--PROTOCOL": "data.protocol", "--LOSS": "training.loss"}
    choices = {
        "data.dataset": tuple(scan_precomp.DATASETS),
        "data.protocol": tuple(PROTOCOLS),
        "training.loss": LOSSES,
    }
    free_keys = ("data.protocol",)

    @classmethod
    def settle(cls, config: Config) -> Config:
        """Let the protocol follow from the data set."""
        data = config.data
        own = [name for name, (dataset, *_) in PROTOCOLS.items() if dataset == data.dataset]
        protocol = data.protocol or (own or list(PROTOCOLS))[0]
        config = super().settle(replace(config, data=replace(data, protocol=protocol)))
        if protocol not in own:
            raise ConfigError(
                f"--PROTOCOL={protocol} is none of --DATASET={data.dataset}; valid ones: {', '.join(own)}"
            )
        return config

    def build_vocabularies(self) -> dict[str, list[str]]:
        """Make words from the captions of all splits, as published; a split that lacks is warned of."""
        root, dataset = self.config.paths.data, self.config.data.dataset
        splits = scan_precomp.splits_of(dataset)
        paths = {split: scan_precomp.captions_path(root, dataset, split) for split in splits}
        absent = [split for split, path in paths.items() if not path.is_file()]
        if len(absent) == len(splits):
            raise DataError(f"no captions of {dataset} in {paths['train'].parent}: put {paths['train'].name} there")
        if absent:
            log.warning("no captions of %s: the vocabulary differs from the published one", ", ".join(absent))
        present = (path for split, path in paths.items() if split not in absent)
        texts = (text for path in present for text in scan_precomp.read_captions(path))
        return {"tokens": list(Vocabulary.from_token_lists(map(tokenize, texts)).words)}

    def training_set(self) -> PairDataset:
        """Return a sample for every caption of the train split."""
        self.pair_sets = [self._pairs(self._read("train"))]
        return self.pair_sets[0]

    def search_sets(self) -> tuple[PairDataset, PairDataset]:
        """Cut the train split between images, so that neither part sees the other's, nor their captions."""
        whole = self._read("train")
        cut = weight_share(len(whole.image_ids))
        self.pair_sets = [self._pairs(part) for part in (whole.images(0, cut), whole.images(cut, None))]
        return self.pair_sets[0], self.pair_sets[1]

    def _pairs(self, split: Captions) -> PairDataset:
        if len(split.image_ids) < 2:
            raise DataError("the train split, or a part of it to search on, has one image: negatives need a second")
        return PairDataset(self._images(split, "training captions"), self._tokens(split))

    def evaluation_set(self, split: str) -> ImageDataset:
        """Return the images of val (dev) or of the protocol's test split; the task keeps the captions."""
        self.scored = self._read({"val": "dev", "test": PROTOCOLS[self.config.data.protocol][1]}[split])
        self.scored_tokens = self._tokens(self.scored)
        self.folds = folds(len(self.scored.image_ids), PROTOCOLS[self.config.data.protocol][2])
        return self._images(self.scored, f"{split} captions")

    def _read(self, split: str) -> Captions:
        return scan_precomp.read_split(self.config.paths.data, self.config.data.dataset, split)

    def _tokens(self, split: Captions) -> Ragged:
        words, most = Vocabulary(self.vocabularies["tokens"]), self.config.data.max_tokens
        return Ragged((words.encode(tokenize(text), most) for text in split.texts), np.int32)

    def _images(self, split: Captions, what: str) -> ImageDataset:
        paths, data = self.config.paths, self.config.data
        regions = scan_precomp.matching_features(
            paths.data, paths.features, data.dataset, self.config.model.feature_size
        )
        require_images(regions, split.image_ids.tolist(), what)
        return ImageDataset(split.image_ids, regions, data.max_regions)

    def build_model(self, genotype: Genotype, pretrained_words: bool) -> MMNasNet:
        """Build the network with one logit, whose sigmoid is the probability that image and caption match."""
        head = FusionHead(outputs=1, **head_sizes(self.config))
        return network_of(self.config, genotype, head, self.vocabularies["tokens"], pretrained_words)

    def before_epoch(self, model: MMNasNet, epoch: int, tools: Tools) -> None:
        """Draw the epoch's negatives: random ones for the first epochs where configured, then hard ones."""
        training = self.config.training
        for pairs in self.pair_sets:
            if epoch < training.random_negative_epochs:
                drawn = random_negatives(len(pairs.images), training.seed, epoch)
            else:
                scorer, amounts = PairScorer(model), (training.negative_candidates, training.hard_negatives)
                drawn = hard_negatives(scorer, pairs, tools, training.seed, epoch, *amounts)
            pairs.negatives.copy_(torch.from_numpy(drawn))

    def state(self) -> dict[str, Tensor]:
        """Return the epoch's negatives: the weights that found them are gone by the epoch's second step."""
        sets = enumerate(self.pair_sets)
        return {f"negatives{number or ''}": pairs.negatives.to(torch.int32) for number, pairs in sets}

    def restore_state(self, state: dict[str, Tensor]) -> None:
        """Take up the negatives of an epoch that is under way."""
        for number, pairs in enumerate(self.pair_sets):
            negatives = state.get(f"negatives{number or ''}")
            if negatives is None or negatives.shape != pairs.negatives.shape:
                raise CheckpointError("the checkpoint's negatives are of other captions: resume with the same data")
            pairs.negatives.copy_(negatives)

    def parts(self, batch: Batch, count: int) -> list[Batch]:
        """Cut a batch along its samples; each part keeps the images and captions that it needs."""
        pieces = (batch[name].tensor_split(count) for name in ("index", "image_rows", "caption_rows"))
        return [_part(batch, *piece) for piece in zip(*pieces, strict=True)]

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Score positive, negative caption and negative image in one forward; see `matching_loss`."""
        image, other_image = batch["image_rows"].unbind(1)
        caption, other_caption = batch["caption_rows"].unbind(1)
        pairs = {
            "pair_images": torch.cat([image, image, other_image]),
            "pair_captions": torch.cat([caption, other_caption, caption]),
        }
        own, with_caption, with_image = model({**batch, **pairs}).float().view(3, -1)  # (3 B, 1) -> (3, B)
        return {"total": matching_loss(own, with_caption, with_image, self.config.training.loss)}

    def predict(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Return the probability that image and caption match, for captions that stand beside their images."""
        probabilities = model(batch)[:, 0].float().sigmoid()  # (B, 1) -> (B,)
        pairs = zip(batch["index"].tolist(), probabilities.tolist(), strict=True)
        return [{"index": index, "probability": probability} for index, probability in pairs]

    def evaluate(self, model: nn.Module, loader: Iterable[Batch], split: str, tools: Tools) -> Result:
        """Score this process's images with every caption (of their fold), gather the rows, rank."""
        scorer = PairScorer(cast(MMNasNet, model))  # a compiled network has its parts, too
        records = score_images(scorer, loader, self.scored_tokens, self.folds, tools)
        return self.score(sorted(tools.gather(records), key=lambda record: record["index"]), split)

    def score(self, records: list[Record], split: str) -> Result:
        """Recalls in percent, both directions; their sum is the headline. Logits rank: a sigmoid may saturate."""
        logits = np.stack([record["logits"] for record in records])  # (I, C)
        each = scan_precomp.CAPTIONS_PER_IMAGE
        figures = mean_figures(
            [retrieval_figures(logits[fold, fold.start * each : fold.stop * each]) for fold in self.folds]
        )
        recalls = {
            f"{short} R@{k}": figures[direction][f"r{k}"]
            for short, direction in (("text", "image_to_text"), ("image", "text_to_image"))
            for k in RECALLS
        }
        total = rsum(figures)
        metrics = {"protocol": self.config.data.protocol, **figures, "rsum": total}
        return Result(best_lists(logits, self.scored), {"rsum": total, **recalls}, metrics, {"scores": logits})


def matching_loss(positive: Tensor, negative_caption: Tensor, negative_image: Tensor, loss: str) -> Tensor:
    """Return the summed loss of logits (B,) of a pair, of its image with another caption, and the reverse.

    `bce` counts the positive once per negative, as published; `margin` compares probabilities.
    """
    if loss == "bce":
        negatives = F.softplus(negative_caption).sum() + F.softplus(negative_image).sum()
        return 2 * F.softplus(-positive).sum() + negatives
    own = positive.sigmoid()
    caption, image = (F.relu(MARGIN + other.sigmoid() - own).sum() for other in (negative_caption, negative_image))
    return caption + image


def _part(batch: Batch, index: Tensor, image_rows: Tensor, caption_rows: Tensor) -> Batch:
    """Return the samples `index` of a batch with the images and captions that they name."""
    images, image_rows = image_rows.unique(return_inverse=True)
    captions, caption_rows = caption_rows.unique(return_inverse=True)
    kept = {name: batch[name][images] for name in ("features", "boxes", "image_sizes", "region_mask")}
    kept |= {name: batch[name][captions] for name in ("tokens", "token_mask")}
    return {**kept, "index": index, "image_rows": image_rows, "caption_rows": caption_rows}
