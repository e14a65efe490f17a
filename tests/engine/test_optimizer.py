import pytest

from mmnas.config import load_config
from mmnas.engine.optimizer import cosine, schedule_of, warmup_decay
from tests.stand_in import fixture


def config_of(size="small", split="train", **training):
    overrides = {f"training.{key}": value for key, value in training.items()}
    return load_config("vqa", size, split=split, version="test", overrides=overrides)


@pytest.mark.parametrize("task", ["vqa", "vgd", "itm"])
def test_rates_are_the_published_ones(task):
    figures = fixture(task)["training"]
    for step, expected in enumerate(figures["learning_rates"]):
        rate = warmup_decay(
            step, figures["epoch_steps"], figures["base_lr"], tuple(figures["decay_epochs"]), figures["decay_rate"]
        )
        assert rate == pytest.approx(expected, rel=1e-12), step


# VQA small with 100 steps per epoch: the last and the first step at every border.
@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.3e-4), (99, 0.3e-4),
        (100, 0.6e-4), (199, 0.6e-4),
        (200, 0.9e-4), (299, 0.9e-4),
        (300, 1.2e-4), (999, 1.2e-4),
        (1000, 0.24e-4), (1199, 0.24e-4),
        (1200, 0.048e-4), (1299, 0.048e-4),
        (5000, 0.048e-4),
    ],
)  # fmt: skip
def test_rates_of_vqa_at_the_borders_of_epochs(step, rate):
    assert schedule_of(config_of(), 100)(step) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("size", "split", "base"),
    [
        ("small", "train", 1.2e-4),
        ("small", "train+val", 1.2e-4),
        ("small", "train+val+vg", 1.2e-4),
        ("large", "train", 7e-5),
        ("large", "train+val", 7e-5),
        ("large", "train+val+vg", 5e-5),
    ],
)
def test_base_rate_follows_size_and_split(size, split, base):
    config = config_of(size, split)
    assert config.base_lr == base
    assert schedule_of(config, 10)(30) == pytest.approx(base)


def test_a_decay_within_the_warm_up_multiplies_what_the_warm_up_gives():
    rates = [warmup_decay(step, 1, 4.0, (1, 3), 0.5) for step in range(5)]
    assert rates == [1.0, 1.0, 1.5, 1.0, 1.0]


def test_decays_need_no_order_and_the_same_epoch_twice_counts_twice():
    assert warmup_decay(40, 10, 1.0, (4, 3), 0.1) == warmup_decay(40, 10, 1.0, (3, 4), 0.1) == pytest.approx(0.01)
    assert warmup_decay(40, 10, 1.0, (4, 4), 0.1) == pytest.approx(0.01)


def test_one_step_per_epoch():
    assert [warmup_decay(step, 1, 4.0, (), 0.2) for step in range(5)] == [1.0, 2.0, 3.0, 4.0, 4.0]


def test_rates_depend_on_the_step_alone():
    rate = schedule_of(config_of(), 7)
    forward = [rate(step) for step in range(100)]
    assert [rate(step) for step in reversed(range(100))] == forward[::-1]


def test_cosine_by_hand():
    # four epochs of ten steps: (1 + cos 0), (1 + cos 45 degrees), (1 + cos 90), (1 + cos 135), halved
    rates = [cosine(step, 10, 0.01, 4) for step in (0, 9, 10, 20, 30, 39, 40)]
    assert rates == pytest.approx([0.01, 0.01, 0.0085355339, 0.005, 0.0014644661, 0.0014644661, 0.0], abs=1e-10)


def test_sgd_takes_the_cosine():
    rate = schedule_of(config_of(optimizer="sgd", base_lr=0.01, epochs=20), 5)
    assert [rate(0), rate(50), rate(99)] == pytest.approx([0.01, 0.005, cosine(99, 5, 0.01, 20)])
