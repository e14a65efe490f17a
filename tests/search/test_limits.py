"""Limits on what a search may find: `--MACS`, `--PARAMS`, `--MAX_SKIP`."""

from itertools import product

import numpy as np
import pytest

from mmnas.config import load_config
from mmnas.errors import ConfigError
from mmnas.genotype import search_space
from mmnas.models.cost import Cost, operation_cost
from mmnas.models.operations import Sizes
from mmnas.search.limits import Limits, amount, limits_of
from mmnas.search.supernet import space_of

# Two blocks of three candidates; the first is free, as a skip connection is.
ROW = [Cost(0, 0), Cost(10, 5), Cost(20, 8)]


def uniform(blocks=2):
    return [np.full(3, 1 / 3)] * blocks


def every_path(limits):
    """All paths that meet the limits, found by looking at each."""
    paths = product(*(range(len(row)) for row in limits.costs))
    return [path for path in paths if np.all(used_by(limits, path) <= limits.most)]


def used_by(limits, path):
    return sum(row[index] for row, index in zip(limits.amounts, path, strict=True))


def test_without_limits_every_block_takes_its_most_probable_candidate_the_first_among_equals():
    limits = Limits([ROW] * 3)
    p = [np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.2, 0.4]), np.array([1.0, 0.0, 0.0])]
    assert limits.most_probable(p) == [[1, 0, 0]]


def test_the_most_probable_path_within_a_limit_worked_out_by_hand():
    """25 parameters: (1, 1) with p = 0.09 is the best of those that fit; (2, 2) takes 40, (1, 2) and (2, 1) 30."""
    p = [np.array([0.1, 0.3, 0.6])] * 2
    assert Limits([ROW] * 2).most_probable(p) == [[2, 2]]
    assert Limits([ROW] * 2, params=25).most_probable(p, 2) == [[1, 1], [0, 2]]  # 0.09 and 0.06, as (2, 0)
    assert Limits([ROW] * 2, params=25, macs=8).most_probable(p) == [[0, 2]]
    assert Limits([ROW] * 2, params=0).most_probable(p) == [[0, 0]]


@pytest.mark.parametrize("most", [{}, {"params": 45}, {"macs": 17, "max_skip": 1}, {"params": 30, "max_skip": 2}])
def test_several_most_probable_paths_are_those_that_a_look_at_every_path_finds(most):
    limits, rng = Limits([ROW] * 4, **most), np.random.default_rng(0)
    p = [rng.dirichlet(np.ones(3)) for _ in range(4)]
    chance = {
        path: np.prod([row[index] for row, index in zip(p, path, strict=True)]) for path in every_path(limits)
    }
    best = sorted(chance, key=chance.get, reverse=True)[:7]
    assert limits.most_probable(p, 7) == list(map(list, best))
    assert len(limits.most_probable(p, 1000)) == len(chance)


def test_drawn_paths_and_neighbors_stay_within_the_limits():
    limits, rng = Limits([ROW] * 3, params=30, max_skip=2), np.random.default_rng(0)
    valid, drawn = set(every_path(limits)), {tuple(limits.draw(rng)) for _ in range(300)}
    assert drawn == valid
    for path in valid:
        near = {tuple(each) for each in limits.neighbors(path)}
        assert near == {each for each in valid if sum(a != b for a, b in zip(each, path, strict=True)) == 1}


def test_max_skip_counts_blocks_without_parameters():
    skips = [np.array([0.8, 0.1, 0.1])] * 5
    for most in (0, 1, 3, 5):
        path = Limits([ROW] * 5, max_skip=most).most_probable(skips)[0]
        assert path.count(0) == most


def test_the_slope_of_the_excess_worked_out_by_hand():
    """Uniform: 20 parameters expected. Over 16 of them the excess is 4/16, and a candidate's part of it cost/16."""
    assert [row.tolist() for row in Limits([ROW] * 2, params=16).excess(uniform())] == [[0, 10 / 16, 20 / 16]] * 2
    assert not np.any(Limits([ROW] * 2, params=20).excess(uniform()))
    assert not np.any(Limits([ROW] * 2).excess(uniform()))


@pytest.mark.parametrize(
    ("most", "message"),
    [({"params": 5}, "--PARAMS=5 is too small: no genotype takes less than 30"), ({"macs": 9}, "--MACS=9 is too")],
)
def test_a_limit_that_no_genotype_meets_is_told(most, message):
    with pytest.raises(ConfigError, match=message):
        Limits([ROW[1:]] * 3, **most)


def test_a_limit_that_only_one_genotype_meets_finds_it():
    assert Limits([ROW[1:]] * 30, params=300).most_probable([np.array([0.0, 1.0])] * 30) == [[0] * 30]


def test_many_candidates_and_limits_find_a_path_that_uses_the_budget():
    """A look at every amount that can be reached would take hours."""
    rng = np.random.default_rng(0)
    rows = [Cost(int(size), int(work)) for size, work in rng.integers(1, 10**6, (10, 2))]
    limits = Limits([rows] * 12, macs=4e6, params=4e6)
    p = [rng.dirichlet([cost.parameters / 10**5 for cost in rows]) for _ in range(12)]  # the largest tempt most
    cost = limits.cost(limits.most_probable(p)[0])
    assert max(cost.parameters, cost.multiply_adds) <= 4e6 and cost.parameters > 3.5e6


@pytest.mark.parametrize(
    ("text", "number"), [("2.0G", 2e9), ("40M", 4e7), ("1.5K", 1500), ("123456", 123456), ("0.5", 0.5)]
)
def test_amounts(text, number):
    assert amount(text) == number


@pytest.mark.parametrize("text", ["2.0 G", "-1M", "2T", "1e9", "G", "१०", "1.2.3", "nan", "1" * 16])
def test_what_is_no_amount(text):
    with pytest.raises(ConfigError, match="macs must be a number such as 40M or 2.0G, not"):
        load_config("vqa", "tiny", split="train", version="x", overrides={"search.macs": text})


def test_costs_are_those_at_the_size_that_genotypes_are_trained_with():
    """The supernet of `--MODEL=search` is 256 wide, its genotypes are trained with 512; `tiny` stays 128."""
    for size, hidden in (("search", 512), ("tiny", 128)):
        config = load_config("vqa", size, split="train", version="x")
        first, *_, last = limits_of(config, space_of(config)).costs
        assert first[0] == operation_cost("self_att_64", Sizes(hidden, 64), positions=14)
        assert last[3] == operation_cost("feed_forward", Sizes(hidden, 64), positions=100)


def test_a_budget_and_a_limit_of_skips_come_from_the_configuration():
    space = search_space(1, 2, ["feed_forward"], ["feed_forward", "skip_connect"])
    overrides = {"search.params": "2M", "search.macs": "", "search.max_skip": 1}
    config = load_config("vqa", "tiny", split="train", version="x", overrides=overrides)
    limits = limits_of(config, space)
    assert limits.most.tolist() == [2e6, 1]
    assert limits.most_probable([np.ones(1), *[np.array([0.1, 0.9])] * 2]) == [[0, 0, 1]]
