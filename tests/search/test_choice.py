"""The final choice among paths, and the controls that a search is compared with."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmnas.config import SearchConfig
from mmnas.engine.distributed import Group
from mmnas.errors import DataError
from mmnas.models.cost import Cost
from mmnas.search.choice import HeldOut, scores_of
from mmnas.search.limits import Limits

ROW = [Cost(0, 0), Cost(10, 5), Cost(20, 8)]
BLOCKS = 6


def score(path):
    """The lower the better: the best path takes candidate 2 everywhere."""
    return 2 * BLOCKS - sum(path)


def scored(seed=0, limits=None, asked=score, **settings):
    """Scores by path, in the order in which they were computed."""
    limits = limits or Limits([ROW] * BLOCKS)
    p = [np.array([0.5, 0.3, 0.2])] * BLOCKS
    return scores_of(SearchConfig(**settings), limits, p, asked, np.random.default_rng(seed))


def test_the_papers_search_scores_its_most_probable_paths():
    """The argmax, then one block at its second candidate: (0.3 / 0.5) as probable, whichever block."""
    found = scored(choose=1 + BLOCKS)
    assert list(found)[0] == (0,) * BLOCKS
    assert sorted(map(sum, found)) == [0] + [1] * BLOCKS
    assert all(found[path] == score(path) for path in found)


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_a_control_scores_so_many_different_paths_the_same_for_the_same_seed(strategy):
    found = scored(strategy=strategy, choose=40)
    assert len(found) == 40
    assert found == scored(strategy=strategy, choose=40) != scored(seed=1, strategy=strategy, choose=40)


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_a_control_scores_64_paths_unless_told_otherwise(strategy):
    assert len(scored(strategy=strategy)) == 64


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_a_control_stops_where_a_space_has_no_more_paths(strategy):
    assert len(scored(limits=Limits([ROW] * 2), strategy=strategy, choose=50)) == 9
    assert len(scored(limits=Limits([ROW[:1]] * 3), strategy=strategy)) == 1


@pytest.mark.parametrize("strategy", ["paper", "random", "evolution"])
def test_limits_hold_for_all_that_is_scored(strategy):
    limits = Limits([ROW] * BLOCKS, params=50, max_skip=3)
    found = scored(limits=limits, strategy=strategy, choose=30)
    assert len(found) == 30
    assert all(limits.cost(path).parameters <= 50 and path.count(0) <= 3 for path in found)


def test_evolution_gets_nearer_to_the_best_path_than_random_ones():
    """Of 12 blocks; the best path sums up to 24."""
    for seed in range(3):
        limits = Limits([ROW] * 12)
        evolved, random = (scored(seed, limits, strategy=name, choose=80) for name in ("evolution", "random"))
        assert max(map(sum, evolved)) > max(map(sum, random)) + 1


def test_evolution_changes_one_block_of_a_path_that_is_there():
    found = list(scored(strategy="evolution", choose=60))
    for number, path in enumerate(found[16:], start=16):
        assert min(sum(a != b for a, b in zip(path, other, strict=True)) for other in found[:number]) == 1


class Network:
    """A network whose output is `weight` times its input."""

    def __init__(self, weight):
        self.weight = weight

    def eval(self):
        return self

    def __call__(self, batch):
        return self.weight * batch["features"]


class StandIn:
    config = SimpleNamespace(training=SimpleNamespace(precision="fp32"))

    def with_totals(self, batch):
        return batch

    def loss(self, network, batch):
        return {"total": (1 + (network(batch) - batch["target"]).abs()).mean()}


def held_out():
    batch = {"features": torch.tensor([1.0, 2.0, 4.0]), "target": torch.tensor([1.0, 2.0, 4.0])}
    supernet = SimpleNamespace(network=lambda path: Network(*path))
    return HeldOut(StandIn(), supernet, Group(), [batch, batch])


def test_a_path_is_scored_by_its_mean_loss_over_all_held_out_batches():
    assert held_out().loss([1.0]) == 1 and held_out().loss([0.0]) == pytest.approx(1 + 7 / 3)


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_chooses_nothing(weight):
    with pytest.raises(DataError, match="held-out part is not finite"):
        held_out().loss([weight])
