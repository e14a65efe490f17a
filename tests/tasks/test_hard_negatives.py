"""Negatives: never one's own, the best of the candidates, the same for a seed in any number of processes."""

import numpy as np
import pytest
import torch

from mmnas.data.matching import PairDataset
from mmnas.data.ragged import Ragged
from mmnas.tasks import hard_negatives as module
from mmnas.tasks.base import Tools
from mmnas.tasks.hard_negatives import best_captions, best_images, hard_negatives, random_negatives


class Images:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


class TableScorer:
    """Scores pairs from a table (I, C) instead of a network; an image's state and a caption's is its number."""

    def __init__(self, table):
        self.table = table

    def groups(self, lengths):
        for length in np.unique(lengths):
            yield np.flatnonzero(lengths == length)

    def images(self, batch):
        return States(batch)

    def captions(self, tokens):
        return tokens[:, 0]

    def score(self, states, rows, captions):
        return torch.from_numpy(self.table)[states.regions[rows], captions[:, None]].float()


class States:
    def __init__(self, regions):
        self.regions = regions

    def __len__(self):
        return len(self.regions)


def tools(rank=0, processes=1, gathered=None):
    """Tools of one process; `gathered` collects what the processes would exchange."""

    def gather(rows):
        if gathered is None:
            return rows
        gathered[rank] = rows
        return [row for part in gathered.values() for row in part]

    return Tools(rank, processes, gather, None, lambda data, batches, title: map(torch.tensor, batches))


def pairs(images):
    """Captions whose first token is their number; some are longer."""
    tokens = Ragged(([c] + [0] * (c % 3) for c in range(5 * images)), np.int32)
    return PairDataset(Images(images), tokens, np.arange(5 * images) // 5)


def table(images, seed=0):
    return np.random.default_rng(seed).random((images, 5 * images), dtype=np.float32)


@pytest.mark.parametrize("images", [2, 3, 40, 300])
def test_own_captions_and_images_are_never_drawn(images):
    own = np.arange(5 * images) // 5
    scores = table(images)
    scores[own, np.arange(5 * images)] = 9  # one's own would win
    for epoch in range(3):
        hard = hard_negatives(TableScorer(scores), pairs(images), tools(), 0, epoch, 64, 5)
        for drawn in (hard, random_negatives(np.arange(5 * images) // 5, 0, epoch)):
            assert drawn.shape == (5 * images, 2)
            assert (drawn[:, 0] // 5 != own).all() and (drawn[:, 1] != own).all()
            assert (drawn >= 0).all() and (drawn[:, 0] < 5 * images).all() and (drawn[:, 1] < images).all()


def test_where_all_others_are_candidates_the_best_are_drawn():
    """Nine images: eight candidates for a caption, forty for an image, and every pair is scored."""
    scores = table(9)
    drawn = {(c, *row) for e in range(60) for c, row in enumerate(draws(scores, 9, epoch=e, candidates=64, best=3))}
    masked = scores.copy()
    masked[np.arange(45) // 5, np.arange(45)] = -1
    for caption in range(45):
        own = [row[1:] for row in drawn if row[0] == caption]
        assert {image for _, image in own} == set(np.argsort(-masked[:, caption])[:3])
        assert {other for other, _ in own} == set(np.argsort(-masked[caption // 5])[:3])


def draws(scores, images, *, seed=0, epoch=0, candidates=8, best=2):
    return hard_negatives(TableScorer(scores), pairs(images), tools(), seed, epoch, candidates, best)


def test_seed_and_epoch_say_which():
    scores = table(50)
    assert (draws(scores, 50) == draws(scores, 50)).all()
    for other in ({"seed": 1}, {"epoch": 1}):
        assert (draws(scores, 50) != draws(scores, 50, **other)).mean() > 0.5
    owners = np.arange(250) // 5
    assert (random_negatives(owners, 0, 0) == random_negatives(owners, 0, 0)).all()
    assert (random_negatives(owners, 0, 0) != random_negatives(owners, 0, 1)).mean() > 0.5


def test_any_number_of_processes_gives_the_same(monkeypatch):
    monkeypatch.setattr(module, "UNIT", 7)
    scores, gathered = table(50), {}
    alone = draws(scores, 50)
    for rank in (2, 0, 1):
        shared = hard_negatives(TableScorer(scores), pairs(50), tools(rank, 3, gathered), 0, 0, 8, 2)
    assert (shared == alone).all()  # as the last process has it, to which all have given their rows


def test_candidates_are_as_many_as_asked_and_evenly_drawn():
    """Scores that all tie: the first candidates are taken, which any image is as likely to be."""
    images, width = 30, 4
    tries = np.zeros((images, images))
    for epoch in range(300):
        order = np.random.default_rng((0, epoch, 2)).permutation(images)
        found = best_images(np.zeros((5 * images, width)), np.arange(5 * images) // 5, order, width)
        assert all(len(set(row)) == width for row in found)
        for caption, row in enumerate(found):
            tries[caption // 5, row] += 1
    others = ~np.eye(images, dtype=bool)
    assert (tries[~others] == 0).all()
    assert tries[others].min() > 0.4 * tries[others].mean()


def test_best_captions_of_a_table_by_hand():
    """Three images in the order 2, 0, 1; each caption was tried with the one image that follows."""
    scores, tried = np.arange(15, dtype=float).reshape(15, 1), np.arange(15).reshape(3, 5)
    found = best_captions(scores, tried, np.array([2, 0, 1]), 64, 2, np.random.default_rng(0))
    assert found[0].tolist() == [14, 13]  # image 0 stands after image 2, whose captions are 10 to 14
    assert found[1].tolist() == [4, 3] and found[2].tolist() == [9, 8]


@pytest.mark.parametrize("counts", [[1, 1], [1, 7, 2], [3, 1, 12, 1, 1, 5, 2, 9]])
def test_images_with_any_number_of_captions(counts):
    """Never one's own; the best where all are tried; every caption of the others in the course of time."""
    owners, captions = np.repeat(np.arange(len(counts)), counts), sum(counts)
    scores = np.random.default_rng(0).random((len(counts), captions), dtype=np.float32)
    scores[owners, np.arange(captions)] = 9  # one's own would win
    data = PairDataset(Images(len(counts)), Ragged(([c] for c in range(captions)), np.int32), owners)
    seen = set()
    for epoch in range(40):
        hard = hard_negatives(TableScorer(scores), data, tools(), 0, epoch, 64, 64)
        for drawn in (hard, random_negatives(owners, 0, epoch)):
            assert (owners[drawn[:, 0]] != owners).all() and (drawn[:, 1] != owners).all()
        seen |= set(hard[:, 0].tolist())
        best = hard_negatives(TableScorer(scores), data, tools(), 0, epoch, 64, 1)[:, 1]
        others = np.where(np.arange(len(counts))[:, None] == owners, -1, scores)
        assert (best == others.argmax(axis=0)).all()
    assert seen == set(range(captions))
