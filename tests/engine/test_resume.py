"""A run that a signal stops goes on to the same bits as one that nothing stopped."""

import signal

import pytest
import torch

from mmnas.engine.checkpoint import load_checkpoint
from tests.conftest import Workplace


def assert_same(one, other):
    assert one.history == other.history
    for name, value in one.model.items():
        assert torch.equal(value, other.model[name]), name
    for key, state in one.optimizer["state"].items():
        for name, value in state.items():
            assert torch.equal(value, other.optimizer["state"][key][name]), (key, name)


# Batches of 8 make epochs of 72 steps, so that the signal falls within one.
FLAGS = ["--KEEP_ALL", "--MAX_EPOCH=4", "--BS=8", "--NW=1"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, world):
    """The last checkpoint of a run that nothing stopped."""
    place = Workplace(tmp_path_factory.mktemp("whole"), world)
    place.train("whole", *FLAGS)
    return load_checkpoint(place.checkpoint("whole", "epoch4.pkl"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_resumed_equals_uninterrupted_to_the_bit(place, uninterrupted, number):
    output, code = place.stop_in_second_epoch("cut", FLAGS, number)
    assert code == 128 + number, output
    assert "--RESUME" in output.splitlines()[-1]
    moments = [path.name for path in place.checkpoint("cut", "x").parent.glob("*_step*.pkl")]
    assert len(moments) == 1  # within an epoch, whichever it was
    process = place.script("--RUN=train", "--VERSION=cut", "--RESUME", "--KEEP_ALL")
    assert process.wait(timeout=240) == 0, process.communicate()[0]
    assert_same(load_checkpoint(place.checkpoint("cut", "epoch4.pkl")), uninterrupted)


def test_resuming_keeps_the_decayed_learning_rate(trained, place, run):
    """The second epoch of `trained` is past its decay; a third, resumed, must be too."""
    flags = ["--RUN=train", "--RESUME", f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}", "--MAX_EPOCH=3"]
    assert run(place, *flags).code == 0
    rate = load_checkpoint(place.checkpoint("base", "epoch3.pkl")).optimizer["param_groups"][0]["lr"]
    assert rate == pytest.approx(1e-3 * 3 / 4 * 0.2)


def test_resuming_a_finished_run_does_nothing(trained, run):
    before = sorted(path.name for path in trained.checkpoint("base", "x").parent.iterdir())
    done = run(trained, "--RUN=train", "--RESUME", "--VERSION=base")
    assert done.code == 0 and "trained 2 epochs" in done.output
    assert sorted(path.name for path in trained.checkpoint("base", "x").parent.iterdir()) == before


@pytest.mark.slow
def test_a_moment_within_an_epoch_wants_the_same_number_of_processes(place, run):
    flags = ["--MAX_EPOCH=3", "--BS=8"]
    output, code = place.stop_in_second_epoch("cut", flags, signal.SIGINT)
    assert code == 130, output
    process = place.script("--RUN=train", "--VERSION=cut", "--RESUME", "--GPU=cpu,cpu")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "processes" in output and "--CKPT_PATH" in output
