"""Scores of a split's images with its captions, and the best matches that a result lists.

Letters: I images, C captions.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from mmnas.batch import Batch
from mmnas.data.matching import RetrievalDataset
from mmnas.data.own import label
from mmnas.data.scan_precomp import Captions
from mmnas.models.pair_scorer import ImageStates, PairScorer, memory_budget
from mmnas.tasks.base import Record, Tools
from mmnas.tasks.hard_negatives import token_groups

# How many captions of an image, and images of a caption, a result lists.
LISTED = 10
# Bytes of images that wait for captions at a time on a CPU; more of them are scored in turns.
IMAGES_BUDGET = 2**31


def score_images(
    scorer: PairScorer, loader: Iterable[Batch], dataset: RetrievalDataset, tools: Tools
) -> list[Record]:
    """Return a record of each image of `loader`: its `index` and `logits` (C,), NaN for captions of other folds.

    The scores of an image do not depend on which others this process has.
    """
    records = []
    for indices, states in _in_turns((batch["index"], scorer.images(batch)) for batch in loader):
        rows = _score_rows(scorer, indices, states, dataset, tools)
        numbers = np.concatenate(indices).tolist()
        records += [{"index": index, "logits": row} for index, row in zip(numbers, rows, strict=True)]
    return records


def _score_rows(
    scorer: PairScorer,
    indices: list[np.ndarray],
    states: list[ImageStates],
    dataset: RetrievalDataset,
    tools: Tools,
) -> np.ndarray:
    """Return logits (images, C), NaN across folds; each caption is encoded once for all these images."""
    tokens, device, every = dataset.tokens, states[0].regions.device, np.arange(len(dataset.tokens))
    starts = np.cumsum([0, *map(len, indices)])
    rows = np.full((starts[-1], len(tokens)), np.nan, np.float32)
    with tools.progress(None, "captions", total=len(tokens), leave=False) as bar:
        for fold in dataset.folds:
            captions = every[dataset.captions.of(fold)]
            for chosen, ids in token_groups(scorer, tokens, captions, device):
                encoded = scorer.captions(ids)
                for start, numbers, images in zip(starts, indices, states, strict=False):
                    inside = np.flatnonzero((fold.start <= numbers) & (numbers < fold.stop))
                    wanted = torch.from_numpy(inside).to(device).expand(len(chosen), -1)  # (captions, images)
                    logits = scorer.score(images, wanted, encoded).T.cpu().numpy()
                    rows[np.ix_(start + inside, captions[chosen])] = logits
                bar.update(len(chosen))
    return rows


def _in_turns(
    batches: Iterable[tuple[Tensor, ImageStates]],
) -> Iterator[tuple[list[np.ndarray], list[ImageStates]]]:
    """Yield indices and states of batches, as many at a time as fit the budget."""
    indices, states = [], []
    for index, images in batches:
        indices.append(index.cpu().numpy())
        states.append(images)
        budget = memory_budget(images.regions.device, IMAGES_BUDGET)
        if sum(each.size for each in states) >= budget:
            yield indices, states
            indices, states = [], []
    if states:
        yield indices, states


def best_lists(logits: np.ndarray, captions: Captions) -> list[Record]:
    """Return the ten best captions of each image, then the ten best images of each caption, by logits (I, C)."""
    ids, texts = list(map(label, captions.image_ids)), captions.texts
    rows: list[Record] = []
    for image, best in enumerate(_best(logits)):
        listed = [{"caption": captions.ids[c], "text": texts[c], "probability": p} for c, p in best]
        rows.append({"image_id": ids[image], "captions": listed})
    for caption, best in enumerate(_best(logits.T)):
        listed = [{"image_id": ids[image], "probability": p} for image, p in best]
        own = ids[captions.owners[caption]]
        rows.append({"caption": captions.ids[caption], "text": texts[caption], "image_id": own, "images": listed})
    return rows


def _best(logits: np.ndarray) -> Iterator[list[tuple[int, float]]]:
    """Yield for each row its highest columns and their probabilities, highest first, without NaN."""
    for row in np.where(np.isnan(logits), -np.inf, logits):
        columns = np.argsort(-row, kind="stable")[:LISTED]
        columns = columns[np.isfinite(row[columns])]
        yield list(zip(columns.tolist(), (1 / (1 + np.exp(-row[columns]))).tolist(), strict=True))
