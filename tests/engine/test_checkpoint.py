"""Checkpoints survive what goes wrong while they are written."""

import hashlib
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmnas.config import Config, load_config
from mmnas.engine.checkpoint import (
    FORMAT,
    Checkpoint,
    best_epoch,
    checkpoint_name,
    checkpoints_in,
    load_checkpoint,
    open_checkpoint,
    prune,
    save_checkpoint,
    settings_of,
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


def test_a_checkpoint_from_before_the_schema_loads(tmp_path):
    """Its keys, its lists in place of tuples and its optimizer's state are as earlier releases wrote them."""
    config = load_config("vqa", "tiny", split="train", version="old").to_dict()
    values = {
        "format": "mmnas checkpoint 1", "config": config, "genotype": {"enc": [["gelu"]], "dec": [["gelu"]]},
        "vocabularies": {"tokens": ["PAD"], "answers": ["yes"]}, "model": {"w": torch.ones(2)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 1)}]},
        "epoch": 2, "step": 5, "steps_per_epoch": 9, "processes": 2, "loss_sum": 3.5,
        "task_state": {"negatives": torch.zeros(3, 2, dtype=torch.int64)},
        "history": [{"epoch": 1, "loss": 4, "metrics": None}, {"epoch": 2, "loss": 0.5, "metrics": {"all": 50}}],
        "seen_splits": ["train"], "versions": {"torch": "2.0"}, "search": {},
    }  # fmt: skip
    torch.save(values, tmp_path / "old.pkl")
    loaded = load_checkpoint(tmp_path / "old.pkl")
    assert isinstance(loaded, Checkpoint)
    for name, value in values.items():
        if name not in ("format", "model", "task_state", "optimizer"):
            assert getattr(loaded, name) == value
    assert torch.equal(loaded.model["w"], torch.ones(2)) and loaded.task_state["negatives"].shape == (3, 2)
    assert loaded.optimizer["param_groups"] == values["optimizer"]["param_groups"]
    settings, genotype = settings_of("old.pkl", loaded)
    assert settings == Config.from_dict(config) and genotype.encoder == (("gelu",),)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epoch", -1, "epoch must be an integer of at least 0, not -1"),
        ("step", True, "step must be an integer, not True"),
        ("model", {"w": 3}, "model.w must be Tensor, not 3"),
        ("vocabularies", {"tokens": "red"}, "vocabularies.tokens must be a list, not 'red'"),
        ("history", [{"epoch": 1, "loss": 0.5}], r"key history\[0\].metrics is missing"),
        (
            "history",
            [{"epoch": 1, "loss": "low", "metrics": None}],
            r"history\[0\].loss must be a number, not",
        ),
        ("history", [torch.ones(2)], "the content holds what is not plain"),
        ("foreign", 3, "unknown key foreign"),
        ("config", ..., "key config is missing"),
    ],
)
def test_what_does_not_fit_in_a_checkpoint_is_named(tmp_path, name, value, message):
    values = {"format": "mmnas checkpoint 1", "config": {}, "genotype": {}, "vocabularies": {}, "model": {}}
    values = {key: item for key, item in {**values, name: value}.items() if item is not ...}
    torch.save(values, tmp_path / "odd.pkl")
    with pytest.raises(CheckpointError, match=f"odd.pkl: {message}") as caught:
        load_checkpoint(tmp_path / "odd.pkl")
    assert "\n" not in str(caught.value)


# The open file


def in_another_process(source, answers):
    answers.put((source.content.model["w"].sum().item(), source.sha256, source.path.exists()))


def test_another_process_receives_the_open_file_not_the_values(tmp_path):
    path = tmp_path / "a.pkl"
    save_checkpoint(path, checkpoint(2.0, size=1000))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = open_checkpoint(path)
    path.unlink()
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=in_another_process, args=(source, answers))
    process.start()
    assert answers.get() == (2000.0, digest, False)
    process.join()


WANDERING = """
import os, sys
print(flush=True)
for position in iter(int, 1):
    os.lseek(int(sys.argv[1]), 4000, os.SEEK_SET)
"""


def test_processes_that_read_at_the_same_time_do_not_read_each_other_s_bytes(tmp_path):
    """A descriptor that is passed on shares its position: here another process moves it all the time."""
    path = tmp_path / "a.pkl"
    kept = checkpoint(2.0)
    kept.model["w"] = torch.arange(1_000_000.0)
    save_checkpoint(path, kept)
    source = open_checkpoint(path)
    number = source.file.fileno()
    command = [sys.executable, "-c", WANDERING, str(number)]
    with subprocess.Popen(command, pass_fds=[number], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        try:
            for _ in range(30):
                receive, arguments = source.__reduce__()
                assert torch.equal(receive(*arguments).content.model["w"], kept.model["w"])
        finally:
            other.kill()


def test_the_hash_is_that_of_the_bytes_that_were_loaded(tmp_path):
    path = tmp_path / "a.pkl"
    save_checkpoint(path, checkpoint(1.0))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = open_checkpoint(path)
    save_checkpoint(path, checkpoint(2.0))
    assert source.sha256 == digest


COUNTED = """
import sys
from pathlib import Path
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from mmnas.run.cli import main
from mmnas.tasks.vqa import VQATask
code = main(VQATask, sys.argv[2:])
names = (sys.argv[1], "small.yml", "vqa.yml")
print("opened", *(sum(path.endswith(name) for path in opened) for name in names))
sys.exit(code)
"""


def test_an_evaluation_opens_its_checkpoint_and_its_settings_once(trained, place):
    path = trained.checkpoint("base", "epoch2.pkl")
    flags = [*place.sizes, "--RUN=val", f"--CKPT_PATH={path}", "--VERSION=counted", f"--DATA_PATH={place.data}"]
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(path), *flags],
        cwd=place.folder, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("opened")[1].split() == ["1", "1", "1"]


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


@pytest.mark.parametrize(
    ("fault", "told", "space"),
    [
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), "saved (CUDA error: out of memory)", False),
        (RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos"), "disk may be full", True),
        (OSError(28, "No space left on device"), "saved (No space left on device)", True),
    ],
)
def test_only_the_disk_s_errors_speak_of_the_disk(tmp_path, monkeypatch, fault, told, space):
    def failing(*_):
        raise fault

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(tmp_path / "a.pkl", checkpoint())
    assert told in str(caught.value) and ("free some space" in str(caught.value)) is space
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_worker_that_dies_while_a_checkpoint_is_written_is_named(tmp_path, monkeypatch):
    """Torch tells it wherever the process is, and the file that it breaks complains, too."""

    def failing(*_):
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos")

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(RuntimeError, match="worker .pid 7. is killed"):
        save_checkpoint(tmp_path / "a.pkl", checkpoint())
    assert not list(tmp_path.iterdir())


class Evil:
    def __reduce__(self):
        return (open, ("/nowhere/evil",))


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    torch.save({"state_dict": {"w": Evil()}}, tmp_path / "evil.pkl")
    with pytest.raises(CheckpointError, match="no code was run"):
        load_checkpoint(tmp_path / "evil.pkl")


@pytest.mark.parametrize("value", [np.float64(0.5), np.int64(3), np.ones(2), Path("x")])
def test_the_type_of_what_is_no_plain_value_is_named(tmp_path, value):
    torch.save({"format": FORMAT, "epoch": value}, tmp_path / "odd.pkl")
    with pytest.raises(CheckpointError, match=r"odd.pkl holds (numpy|pathlib)\S+, no plain value"):
        load_checkpoint(tmp_path / "odd.pkl")


def test_names_sort_by_moment_not_by_letter(tmp_path):
    for moment in ((10, 0), (9, 0), (9, 7), (2, 0)):
        (tmp_path / checkpoint_name(*moment)).touch()
    (tmp_path / "epochs.pkl").touch()
    names = [path.name for path in checkpoints_in(tmp_path)]
    assert names == ["epoch2.pkl", "epoch9.pkl", "epoch9_step7.pkl", "epoch10.pkl"]


def test_prune_keeps_the_newest_two_and_the_best(tmp_path):
    for epoch in range(1, 7):
        (tmp_path / checkpoint_name(epoch, 0)).touch()
    written = [path.name for path in checkpoints_in(tmp_path)]
    prune(tmp_path, best=2, written=written)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["epoch2.pkl", "epoch5.pkl", "epoch6.pkl"]
    prune(tmp_path, best=None, written=written)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["epoch5.pkl", "epoch6.pkl"]


def test_the_best_epoch_is_the_first_of_equals():
    history = [{"epoch": n, "metrics": {"overall": value}} for n, value in ((1, 5.0), (2, 7.0), (3, 7.0))]
    assert best_epoch(history, "overall") == 2
    assert best_epoch([{"epoch": 1, "metrics": {}}], "overall") is None


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        (
            "config",
            "hidden_size",
            1000 * 64,
            "does not fit",
        ),  # gigabytes: shapes are compared first
        ("optimizer", "state", {0: {"exp_avg": torch.zeros(3)}}, "its optimizer does not fit"),
        ("optimizer", "param_groups", [], "its optimizer does not fit"),
    ],
)
def test_absurd_sizes_and_foreign_optimisers_are_refused_at_once(trained, place, run, part, name, value, message):
    checkpoint = load_checkpoint(trained.checkpoint("base", "epoch2.pkl"))
    (checkpoint.config["model"] if part == "config" else checkpoint.optimizer)[name] = value
    save_checkpoint(place.checkpoint("base", "epoch1.pkl"), checkpoint)
    done = run(place, "--RUN=train", "--RESUME", "--VERSION=base", "--MAX_EPOCH=3")
    assert done.code == 2 and message in done.output, done.output
