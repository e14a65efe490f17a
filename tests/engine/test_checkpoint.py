"""Checkpoints survive what goes wrong while they are written."""

import resource
import subprocess
import sys

import pytest
import torch

from mmnas.engine.checkpoint import (
    Checkpoint,
    best_epoch,
    checkpoint_name,
    checkpoints_in,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from mmnas.errors import CheckpointError
from tests.conftest import ROOT


def checkpoint(value: float = 1.0, size: int = 10) -> Checkpoint:
    return Checkpoint(config={}, genotype={}, vocabularies={"tokens": []}, model={"w": torch.full((size,), value)})


def test_what_is_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path / "a.pkl", checkpoint(3.0))
    loaded = load_checkpoint(tmp_path / "a.pkl")
    assert torch.equal(loaded.model["w"], torch.full((10,), 3.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pkl"]


FULL_DISK = """
import resource, sys
from tests.engine.test_checkpoint import checkpoint
from mmnas.engine.checkpoint import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_checkpoint(sys.argv[1], checkpoint(2.0, size=100_000))
except ValueError as exception:
    print(exception)
"""


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "epoch1.pkl"
    save_checkpoint(path, checkpoint(1.0))
    limited = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "could not be saved" in limited.stdout and "--RESUME" in limited.stdout, limited.stderr
    assert len(limited.stdout.splitlines()) == 1
    assert torch.equal(load_checkpoint(path).model["w"], torch.ones(10))
    assert [each.name for each in tmp_path.iterdir()] == ["epoch1.pkl"]


def test_a_full_disk_stops_a_run_in_one_line(place):
    process = place.script(
        *place.train_flags("full"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 2, output
    assert "could not be saved" in output and "Traceback" not in output


class Evil:
    def __reduce__(self):
        return (open, ("/nowhere/evil",))


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    torch.save({"state_dict": {"w": Evil()}}, tmp_path / "evil.pkl")
    with pytest.raises(CheckpointError, match="no code was run"):
        load_checkpoint(tmp_path / "evil.pkl")


def test_names_sort_by_moment_not_by_letter(tmp_path):
    for moment in ((10, 0), (9, 0), (9, 7), (2, 0)):
        (tmp_path / checkpoint_name(*moment)).touch()
    (tmp_path / "epochs.pkl").touch()
    names = [path.name for path in checkpoints_in(tmp_path)]
    assert names == ["epoch2.pkl", "epoch9.pkl", "epoch9_step7.pkl", "epoch10.pkl"]


def test_prune_keeps_the_newest_two_and_the_best(tmp_path):
    for epoch in range(1, 7):
        (tmp_path / checkpoint_name(epoch, 0)).touch()
    prune(tmp_path, best=2)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["epoch2.pkl", "epoch5.pkl", "epoch6.pkl"]
    prune(tmp_path, best=None)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["epoch5.pkl", "epoch6.pkl"]


def test_the_best_epoch_is_the_first_of_equals():
    history = [{"epoch": n, "metrics": {"overall": value}} for n, value in ((1, 5.0), (2, 7.0), (3, 7.0))]
    assert best_epoch(history, "overall") == 2
    assert best_epoch([{"epoch": 1, "metrics": {}}], "overall") is None


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("config", "hidden_size", 6400 * 64, "does not fit"),  # its 30 GB would be asked for before shapes were met
        ("optimizer", "state", {0: {"exp_avg": torch.zeros(3)}}, "its optimiser does not fit"),
        ("optimizer", "param_groups", [], "its optimiser does not fit"),
    ],
)
def test_absurd_sizes_and_foreign_optimisers_are_refused_at_once(trained, place, run, part, name, value, message):
    checkpoint = load_checkpoint(trained.checkpoint("base", "epoch2.pkl"))
    (checkpoint.config["model"] if part == "config" else checkpoint.optimizer)[name] = value
    save_checkpoint(place.checkpoint("base", "epoch1.pkl"), checkpoint)
    done = run(place, "--RUN=train", "--RESUME", "--VERSION=base", "--MAX_EPOCH=3")
    assert done.code == 2 and message in done.output, done.output
