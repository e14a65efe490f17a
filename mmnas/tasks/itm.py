"""Image-text matching on Flickr30K and COCO (paper sections 3.3 and 4): losses, score, check.

Letters: B batch, I images, C captions.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from mmnas.batch import Batch
from mmnas.config import Config
from mmnas.data import scan_precomp
from mmnas.data.features import RegionSource
from mmnas.data.matching import ImageDataset, PairDataset, RetrievalDataset
from mmnas.data.named import caption_files, caption_splits, caption_texts, read_captions
from mmnas.data.own import OWN
from mmnas.data.ragged import Ragged
from mmnas.data.samples import weight_samples
from mmnas.data.scan_precomp import Captions
from mmnas.data.sources import matching_features
from mmnas.errors import CheckpointError, ConfigError, DataError
from mmnas.metrics.retrieval import FOLDS, RECALLS, folds, mean_figures, retrieval_figures, rsum
from mmnas.models.heads import FusionHead
from mmnas.models.network import MMNasNet
from mmnas.models.pair_scorer import PairScorer
from mmnas.tasks.base import Record, Result, Task, Tools
from mmnas.tasks.hard_negatives import hard_negatives, random_negatives
from mmnas.tasks.matching_loss import matching_loss
from mmnas.tasks.report import Report
from mmnas.tasks.retrieval import best_lists, score_images
from mmnas.text.tokenizer import tokenize
from mmnas.text.vocabulary import Vocabulary

# Protocol -> its data set, the split that it calls test, and the folds whose figures it averages.
PROTOCOLS = {
    "flickr1k": ("flickr", "test", 1),
    "coco5k": ("coco", "testall", 1),
    "coco1k": ("coco", "testall", FOLDS),
    "all": (OWN, "test", 1),
}
# Images of the published test splits, which give the protocols their names; regions of an image, fewest and most.
PUBLISHED_IMAGES = {"flickr": {"test": 1000}, "coco": {"testall": 5000}}
PUBLISHED_REGIONS = (36, 36)


class ITMTask(Task):
    """Captions for images and images for captions, scored by recall@k."""

    name = "itm"
    splits = ("train",)
    headline = "rsum"
    flags = {"--DATASET": "data.dataset", "--PROTOCOL": "data.protocol", "--LOSS": "training.loss"}
    choices = {
        "data.dataset": (*scan_precomp.DATASETS, OWN),
        "data.protocol": tuple(PROTOCOLS),
        "training.loss": ("bce", "margin"),
    }
    free_keys = ("data.protocol",)

    @classmethod
    def settle(cls, config: Config) -> Config:
        """Let the protocol follow from the data set."""
        dataset = config.data.dataset
        own = [name for name, (of, *_) in PROTOCOLS.items() if of == dataset]
        protocol = config.data.protocol or own[0] if own else "flickr1k"
        config = replace(config, data=replace(config.data, protocol=protocol))
        config = super().settle(config)
        if protocol not in own:
            raise ConfigError(f"--PROTOCOL={protocol} is none of --DATASET={dataset}; valid ones: {', '.join(own)}")
        return config

    def build_vocabularies(self) -> dict[str, list[str]]:
        """Make words from the captions of all splits, as published; warn about missing splits."""
        texts = caption_texts(self.config.paths.data, self.config.data.dataset)
        return {"tokens": list(Vocabulary.from_token_lists(map(tokenize, texts)).words)}

    def training_set(self) -> PairDataset:
        """Return a sample for every caption of the splits that --SPLIT names."""
        return self._pairs(self._read(self.config.split))

    def search_sets(self) -> tuple[PairDataset, PairDataset]:
        """Cut them between images, so that neither part sees the other's, nor their captions."""
        whole = self._read(self.config.split)
        cut = weight_samples(len(whole.image_ids))
        return self._pairs(whole.images(0, cut)), self._pairs(whole.images(cut, None))

    def _pairs(self, captions: Captions) -> PairDataset:
        if len(captions.image_ids) < 2:
            raise DataError(
                "the training split, or a part of it to search on, has one image: negatives need a second"
            )
        images = self._images(captions, "training captions")
        return PairDataset(images, self._tokens(captions), captions.owners)

    def evaluation_set(self, split: str) -> RetrievalDataset:
        """Return the images and captions of val (dev) or of the protocol's test split."""
        _, test, parts = PROTOCOLS[self.config.data.protocol]
        captions = self._read(test if split == "test" else split)
        images = self._images(captions, f"{split} captions")
        return RetrievalDataset(images, captions, self._tokens(captions), folds(len(images), parts))

    def _read(self, split: str) -> Captions:
        return read_captions(self.config.paths.data, self.config.data.dataset, split)

    def _tokens(self, captions: Captions) -> Ragged:
        words, most = self.words, self.config.data.max_tokens
        return Ragged((words.encode(tokenize(text), most) for text in captions.texts), np.int32)

    def _images(self, captions: Captions, what: str) -> ImageDataset:
        regions = self.require_features(list(captions.image_ids), what)
        return ImageDataset(captions.image_ids, regions, self.config.data.max_regions)

    def open_features(self) -> RegionSource:
        """Return the feature store or the folders that the paths name."""
        paths, dataset = self.config.paths, self.config.data.dataset
        return matching_features(paths.data, paths.features, dataset, self.config.model.feature_size)

    def build_head(self, **sizes: Any) -> FusionHead:
        """Build the head with one logit, whose sigmoid is the probability that image and caption match."""
        return FusionHead(outputs=1, **sizes)

    def before_epoch(self, model: MMNasNet, epoch: int, tools: Tools, datasets: Sequence[PairDataset]) -> None:
        """Draw the epoch's negatives: random ones for the first epochs where configured, then hard ones."""
        training = self.config.training
        for pairs in datasets:
            if epoch < training.random_negative_epochs:
                drawn = random_negatives(pairs.owners, training.seed, epoch)
            else:
                scorer, amounts = PairScorer(model), (training.negative_candidates, training.hard_negatives)
                drawn = hard_negatives(scorer, pairs, tools, training.seed, epoch, *amounts)
            pairs.negatives.copy_(torch.from_numpy(drawn))

    def state(self, datasets: Sequence[PairDataset]) -> dict[str, Tensor]:
        """Return the epoch's negatives: the weights that found them are gone by the epoch's second step."""
        return {name: pairs.negatives.to(torch.int32) for name, pairs in _named(datasets).items()}

    def restore_state(self, datasets: Sequence[PairDataset], state: Mapping[str, Tensor]) -> None:
        """Restore the negatives of an unfinished epoch."""
        for name, pairs in _named(datasets).items():
            held, limits = state.get(name, torch.empty(0)), torch.tensor([len(pairs.tokens), len(pairs.images)])
            fits = held.dtype in (torch.int32, torch.int64) and held.shape == pairs.negatives.shape
            if not fits or ((held < 0) | (held >= limits)).any():
                raise CheckpointError("the checkpoint's negatives are of other captions: resume with the same data")
            pairs.negatives.copy_(held)

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
        """Return the probability that image and caption match, for captions paired with images."""
        logits = model(batch)  # (B, 1)
        self.require_finite(batch, logits)
        probabilities = logits[:, 0].float().sigmoid()  # (B,)
        pairs = zip(batch["index"].tolist(), probabilities.tolist(), strict=True)
        return [{"index": index, "probability": probability} for index, probability in pairs]

    def evaluate(
        self, model: nn.Module, loader: Iterable[Batch], dataset: RetrievalDataset, tools: Tools
    ) -> Result:
        """Score this process's images with every caption (of their fold), gather the rows, rank."""
        scorer = PairScorer(cast(MMNasNet, model))  # a compiled network has its parts, too
        rows = tools.gather(score_images(scorer, loader, dataset, tools))
        return self.score(sorted(rows, key=lambda row: row["index"]), dataset)

    def score(self, predictions: list[Record], dataset: RetrievalDataset) -> Result:
        """Recalls in percent, both directions; their sum is the headline. Logits rank: a sigmoid may saturate."""
        logits = np.stack([prediction["logits"] for prediction in predictions])  # (I, C)
        captions = dataset.captions
        blocks = [logits[fold, captions.of(fold)] for fold in dataset.folds]
        for fold, block in zip(dataset.folds, blocks, strict=True):
            self.require_finite({"index": torch.arange(fold.start, fold.stop)}, torch.from_numpy(block))
        owners = [captions.images(fold.start, fold.stop).owners for fold in dataset.folds]
        figures = mean_figures(list(map(retrieval_figures, blocks, owners)))
        summary = {"rsum": rsum(figures)}
        for short, direction in (("text", "image_to_text"), ("image", "text_to_image")):
            summary |= {f"{short} R@{k}": figures[direction][f"r{k}"] for k in RECALLS}
        metrics = {"protocol": self.config.data.protocol, **figures, "rsum": summary["rsum"]}
        return Result(best_lists(logits, dataset.captions), summary, metrics, {"scores": logits})

    def check(self, report: Report, full: bool) -> None:
        """Check captions, ids and features; the test splits may be missing."""
        root, dataset = Path(self.config.paths.data), self.config.data.dataset
        report.title(f"files under {root}")
        found = self._check_files(report, root, dataset)
        report.title("captions")
        for split, captions in found.items():
            images, published = len(captions.image_ids), PUBLISHED_IMAGES.get(dataset, {}).get(split)
            report.count(f"images of {split}, {len(captions.texts) / images:g} captions each", images, published)
        report.words((tokenize(text) for captions in found.values() for text in captions.texts), self.config)
        report.title("region features")
        ids = {split: captions.image_ids for split, captions in found.items()}
        with report.catching():
            usual = None if dataset == OWN else PUBLISHED_REGIONS
            report.features(self.open_features(), ids, self._needed, full, usual)

    @property
    def _needed(self) -> set[str]:
        """The splits without which nothing is trained and scored."""
        return {*self.config.split.split("+"), "dev", "val"}

    def _check_files(self, report: Report, root: Path, dataset: str) -> dict[str, Captions]:
        """Show the files; return the captions of every split that can be read."""
        if dataset == "flickr":
            report.file(root / "itm" / "dataset_flickr30k.json")
        found: dict[str, Captions] = {}
        for split in caption_splits(root, dataset):
            present = [report.file(path) for path in caption_files(root, dataset, split)]
            with report.catching(needed=any(present) or split in self._needed):
                found[split] = self._read(split)
        return found


def _named(datasets: Sequence[PairDataset]) -> dict[str, PairDataset]:
    """Return the data sets under the names that their negatives have in checkpoints."""
    return {f"negatives{number or ''}": pairs for number, pairs in enumerate(datasets)}


def _part(batch: Batch, index: Tensor, image_rows: Tensor, caption_rows: Tensor) -> Batch:
    """Return the samples `index` of a batch, two images and captions each: to look for shared ones would wait."""
    kept = {name: batch[name][image_rows.flatten()] for name in ("features", "boxes", "image_sizes", "region_mask")}
    kept |= {name: batch[name][caption_rows.flatten()] for name in ("tokens", "token_mask")}
    rows = torch.arange(2 * len(index), device=index.device).view(-1, 2)
    return {**kept, "index": index, "image_rows": rows, "caption_rows": rows}
