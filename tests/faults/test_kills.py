"""SIGKILL while a run learns, saves or packs: what goes on afterwards gets the same bits as one left alone.

More than fifty kills in all; `python -m tests.faults --rounds N` makes more.
"""

import pytest

from mmnas.files import remove_temporaries, replacing
from tests.conftest import Workplace
from tests.faults.rounds import kill_learning, kill_packing

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("task", "run", "kills"), [("vgd", "train", 14), ("vqa", "search", 8)])
def test_killed_runs_go_on_to_the_same_bits(tmp_path, few_images, task, run, kills):
    done = kill_learning(Workplace(tmp_path, few_images, task), run, kills, seed=0)
    assert done.total >= kills
    assert done.in_writes > 0  # those fell within the writing of a checkpoint


def test_killed_packing_goes_on_to_the_same_store(tmp_path):
    assert kill_packing(tmp_path, kills=30, seed=0).total >= 30


def test_what_a_killed_process_left_goes_with_the_next_write_of_the_file(tmp_path):
    for name in (".a.json.999999999.tmp", ".b.json.999999999.tmp", ".a.json.1.tmp", ".a.json.tmp"):
        (tmp_path / name).write_text("half")
    with replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("whole")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".a.json.1.tmp", ".a.json.tmp", ".b.json.999999999.tmp", "a.json"]  # process 1 always runs
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.json.tmp", "a.json"]
