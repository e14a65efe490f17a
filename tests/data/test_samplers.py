import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from mmnas.batch import collate
from mmnas.data.ragged import Ragged
from mmnas.data.samplers import EvaluationSampler, TrainingSampler
from mmnas.engine.loading import lengths_of

# Padding


def sample(regions, tokens, index):
    rng = np.random.default_rng(index)
    return {
        "features": rng.random((regions, 6), np.float32),
        "boxes": rng.random((regions, 4), np.float32),
        "image_sizes": np.array([480, 640], np.float32),
        "tokens": np.arange(1, tokens + 1, dtype=np.int64),
        "index": np.int64(index),
        "answer_scores": np.full(3, index, np.float32),
    }


def test_a_batch_is_as_wide_as_its_own_content():
    samples = [sample(3, 2, 0), sample(5, 1, 1), sample(1, 4, 2)]
    batch = collate(samples)
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    assert shapes == {
        "features": (3, 5, 6), "boxes": (3, 5, 4), "region_mask": (3, 5), "image_sizes": (3, 2),
        "tokens": (3, 4), "token_mask": (3, 4), "index": (3,), "answer_scores": (3, 3),
    }  # fmt: skip
    assert batch["region_mask"].sum(1).tolist() == [3, 5, 1]
    assert batch["token_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert batch["tokens"].tolist() == [[1, 2, 0, 0], [1, 0, 0, 0], [1, 2, 3, 4]]
    assert batch["index"].tolist() == [0, 1, 2]


def test_content_stands_first_and_zeros_behind_it():
    samples = [sample(3, 2, 0), sample(5, 1, 1)]
    batch = collate(samples)
    for name in ("features", "boxes"):
        for row, given in zip(batch[name], samples, strict=True):
            np.testing.assert_array_equal(row[: len(given[name])], given[name])
            assert not row[len(given[name]) :].any()


def test_types_are_those_of_the_contract():
    types = {name: tensor.dtype for name, tensor in collate([sample(2, 2, 0)]).items()}
    assert {types["region_mask"], types["token_mask"]} == {torch.bool}
    assert {types["tokens"], types["index"]} == {torch.int64}
    assert {types[name] for name in ("features", "boxes", "image_sizes", "answer_scores")} == {torch.float32}


def test_a_batch_does_not_share_memory_with_its_samples():
    given = sample(2, 2, 0)
    batch = collate([given])
    given["features"][:] = -1
    assert (batch["features"] >= 0).all()


# Training


def deal(size, batch_size, processes, seed=0, epoch=0, first_step=0):
    """Return the batches of an epoch, [step][process]."""
    samplers = [TrainingSampler(size, batch_size, seed, rank, processes) for rank in range(processes)]
    for sampler in samplers:
        sampler.start(epoch, first_step)
    return list(zip(*samplers, strict=True))  # strict: all processes take equally many steps


def flat(steps):
    return [index for step in steps for batch in step for index in batch]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 11, 12, 13, 24, 25, 47, 48, 49])
def test_an_epoch_holds_every_sample_at_most_once_and_drops_fewer_than_processes(size, processes):
    steps = deal(size, 4, processes)
    seen = flat(steps)
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(size))
    assert size - len(seen) < processes
    assert all(1 <= len(batch) <= 4 for step in steps for batch in step)
    assert all(len(TrainingSampler(size, 4, 0, rank, processes)) == len(steps) for rank in range(processes))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_epoch_holds_every_sample_exactly_once(processes):
    assert sorted(flat(deal(48, 4, processes))) == list(range(48))


@pytest.mark.parametrize(("processes", "batch_size"), [(2, 6), (3, 4)])
def test_processes_share_the_batches_that_one_process_would_take(processes, batch_size):
    alone = deal(51, 12, 1)
    together = deal(51, batch_size, processes)
    assert [sorted(batch) for (batch,) in alone] == [sorted(flat([step])) for step in together]


def test_the_last_batch_is_dealt_evenly():
    (step,) = deal(7, 4, 2)
    assert [len(batch) for batch in step] == [4, 3]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("first_step", [0, 1, 3])
def test_an_epoch_goes_on_at_any_step(processes, first_step):
    whole = deal(50, 4, processes, epoch=2)
    assert deal(50, 4, processes, epoch=2, first_step=first_step) == whole[first_step:]


def test_an_epoch_that_is_over_gives_nothing():
    assert deal(50, 4, 1, first_step=13) == []


def test_orders_follow_from_seed_and_epoch():
    assert deal(50, 4, 1, seed=1, epoch=3) == deal(50, 4, 1, seed=1, epoch=3)
    orders = {tuple(flat(deal(50, 4, 1, seed=seed, epoch=epoch))) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_iterating_twice_gives_the_same_epoch():
    sampler = TrainingSampler(20, 4, seed=5)
    assert list(sampler) == list(sampler)


# Training on samples of about one length


def deal_sorted(lengths, batch_size, processes, window, seed=0, epoch=0, first_step=0):
    """Return the batches of an epoch sorted by length, [step][process]."""
    samplers = [
        TrainingSampler(len(lengths), batch_size, seed, rank, processes, lengths, window)
        for rank in range(processes)
    ]
    for sampler in samplers:
        sampler.start(epoch, first_step)
    return list(zip(*samplers, strict=True))


LENGTHS = np.random.default_rng(0).integers(10, 101, 101)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 11, 12, 13, 24, 49, 101])
@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_sorting_changes_neither_the_samples_of_an_epoch_nor_its_steps(size, processes, window):
    plain = deal(size, 4, processes)
    steps = deal_sorted(LENGTHS[:size], 4, processes, window)
    assert sorted(flat(steps)) == sorted(flat(plain))
    assert sorted(map(len, (batch for step in steps for batch in step))) == sorted(
        map(len, (batch for step in plain for batch in step))
    )
    assert len(steps[-1][0]) == len(plain[-1][0]) if steps else not plain


def test_each_window_of_the_permutation_is_sorted_and_cut_into_steps():
    order = np.array(flat(deal(26, 4, 1, seed=3, epoch=2)))
    expected = set()
    for first in (0, 12):  # three steps of four; the last two samples are the short step
        window = sorted(order[first : first + 12], key=lambda sample: (LENGTHS[sample], list(order).index(sample)))
        expected |= {tuple(window[start : start + 4]) for start in range(0, 12, 4)}
    steps = [tuple(batch) for (batch,) in deal_sorted(LENGTHS[:26], 4, 1, window=3, seed=3, epoch=2)]
    assert set(steps[:-1]) == expected
    assert steps[-1] == tuple(order[-2:])


def test_batches_of_one_length_stand_in_any_order():
    means = [LENGTHS[batch].mean() for (batch,) in deal_sorted(LENGTHS[:100], 5, 1, window=20)]
    assert sorted(means) != means
    assert max(np.ptp(LENGTHS[batch]) for (batch,) in deal_sorted(LENGTHS[:100], 5, 1, window=20)) < 20


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_get_samples_of_the_same_lengths(processes):
    whole = deal_sorted(LENGTHS[:96], 4, processes, window=100)
    assert all(np.ptp([LENGTHS[index] for batch in step for index in batch]) < 35 for step in whole)
    alone = deal_sorted(LENGTHS[:96], 4 * processes, 1, window=100)
    assert [sorted(batch) for (batch,) in alone] == [sorted(flat([step])) for step in whole]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("first_step", [0, 1, 7])
def test_a_sorted_epoch_goes_on_at_any_step(processes, first_step):
    whole = deal_sorted(LENGTHS, 4, processes, 3, epoch=2)
    assert deal_sorted(LENGTHS, 4, processes, 3, epoch=2, first_step=first_step) == whole[first_step:]


def test_sorted_orders_follow_from_seed_and_epoch():
    orders = [deal_sorted(LENGTHS, 4, 1, 3, seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert len(set(map(tuple, map(flat, orders)))) == 9


def test_fewer_samples_than_processes_make_no_step():
    assert deal(2, 4, 3) == []
    assert len(TrainingSampler(2, 4, 0, 0, 3)) == 0


# Evaluation


def evaluation_batches(size, batch_size, processes):
    samplers = [EvaluationSampler(size, batch_size, rank, processes) for rank in range(processes)]
    batches = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(own) for own in batches]
    return batches


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 16, 17])
def test_evaluation_sees_every_sample_exactly_once(size, processes):
    dealt = evaluation_batches(size, 4, processes)
    assert sorted(index for own in dealt for batch in own for index in batch) == list(range(size))


@pytest.mark.parametrize("processes", [2, 3])
def test_evaluation_deals_the_batches_of_a_single_process(processes):
    (alone,) = evaluation_batches(17, 4, 1)
    dealt = evaluation_batches(17, 4, processes)
    assert sorted(batch for own in dealt for batch in own) == alone
    assert dealt[0] == alone[::processes]


def test_scoring_takes_samples_of_about_one_length_together():
    lengths = np.array([30, 10, 20, 10, 40])
    assert list(EvaluationSampler(5, 2, lengths=lengths)) == [[1, 3], [2, 0], [4]]
    dealt = [list(EvaluationSampler(5, 2, rank, 2, lengths)) for rank in range(2)]
    assert dealt == [[[1, 3], [4]], [[2, 0]]]


def test_samples_are_as_long_as_their_regions_then_their_tokens():
    class Pairs:
        tokens = Ragged([[1], [1, 2, 3], [1, 2]], np.int32)

        def __init__(self, counts):
            self.region_counts = lambda: counts

    lengths = lengths_of(Pairs(np.array([36, 20, 36])))
    assert np.argsort(lengths).tolist() == [1, 0, 2]
    assert np.argsort(lengths_of(Subset(Pairs(np.array([36, 20, 36])), [2, 0]))).tolist() == [1, 0]
    assert lengths_of(Pairs(None)) is None and lengths_of([1, 2]) is None
