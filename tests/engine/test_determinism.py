"""The same seed on the same machine gives the same figures to the bit, however batches are loaded."""

import pytest

from mmnas.engine.checkpoint import Checkpoint, load_checkpoint
from tests.conftest import Workplace
from tests.faults.killing import OUTPUT, start
from tests.faults.rounds import assert_equal

pytestmark = pytest.mark.slow


def assert_same_run(one: Checkpoint, other: Checkpoint) -> None:
    assert len(one.history) == 2
    for name in ("history", "model", "optimizer", "search", "vocabularies", "steps_per_epoch"):
        assert_equal(getattr(one, name), getattr(other, name), name)


@pytest.mark.parametrize("name", ("vqa", "vgd", "itm"))
@pytest.mark.parametrize("learning", ["train", "search"])
def test_a_run_in_another_process_with_workers(tmp_path, world, run, name, learning):
    """The second epoch of matching learns from hard negatives, which are scored through the loader too."""
    place = Workplace(tmp_path, world, name)
    flags = place.search_flags if learning == "search" else place.train_flags
    process = start(name, [*flags("two", "--NW=2"), f"--DATA_PATH={world}"], tmp_path)
    done = run(place, *flags("none", "--NW=0"))
    process.join()
    assert (done.code, process.exitcode) == (0, 0), done.output
    none, two = (load_checkpoint(place.checkpoint(version, "epoch2.pkl")) for version in ("none", "two"))
    assert learning == "train" or none.history[1]["architecture_steps"] > 0
    assert_same_run(none, two)


def test_two_processes_again(place):
    for workers in (0, 2):
        flags = place.train_flags(f"with{workers}", "--GPU=cpu,cpu", f"--NW={workers}", f"--DATA_PATH={place.data}")
        process = start("vqa", flags, place.folder)
        process.join()
        assert process.exitcode == 0, (place.folder / OUTPUT).read_text()
    one, other = (load_checkpoint(place.checkpoint(f"with{workers}", "epoch2.pkl")) for workers in (0, 2))
    assert one.processes == 2
    assert_same_run(one, other)
