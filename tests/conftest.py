"""What the tests share: one small demo world, one small network's settings, a trained run of it."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mmnas.demo.world import write_world
from mmnas.run.cli import main
from mmnas.tasks import task_named

ROOT = Path(__file__).resolve().parent.parent
# A shell that starts the tests in the background has them, and the runs that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # the networks are tiny, and other processes may share the cores

SETTINGS = """
model: {hidden_size: 64, pooling_size: 32, pooled_size: 64, relation_size: 16}
data: {answer_min_count: 2}
training: {epochs: 2, base_lr: 1.0e-3, decay_epochs: [1], workers: 0, random_negative_epochs: 1}
search: {encoder_blocks: 2, decoder_blocks: 3, alpha_start: 1, alpha_every: 2}
"""
GENOTYPE = {
    "enc": [["self_att_64"], ["feed_forward"]],
    "dec": [["rel_self_att_64"], ["guided_att_64"], ["feed_forward"]],
}


@dataclass
class Run:
    """What a command left behind."""

    code: int
    output: str


class Workplace:
    """A folder in which a task's script is run as a user would, with a small network."""

    def __init__(self, folder: Path, world: Path, task: str = "vqa") -> None:
        self.folder, self.data, self.task = folder, world, task
        (folder / "small.yml").write_text(SETTINGS)
        (folder / "small.json").write_text(json.dumps({"epoch0": GENOTYPE}))
        self.sizes = ["--MODEL=tiny", f"--CFG={folder}/small.yml", "--GPU=cpu"]
        self.settings = [*self.sizes, f"--GENO_PATH={folder}/small.json"]

    def train_flags(self, version: str, *flags: str) -> list[str]:
        """The flags of a training run on the train split."""
        return ["--RUN=train", "--SPLIT=train", f"--VERSION={version}", *self.settings, *flags]

    def search_flags(self, version: str, *flags: str) -> list[str]:
        """The flags of a search over 2 + 3 blocks; alphas learn from the second epoch on."""
        return ["--RUN=search", f"--VERSION={version}", *self.sizes, *flags]

    def machine(self, flags: Sequence[str]) -> list[str]:
        """What no checkpoint says, unless `flags` do: where the data is, and how many workers read it."""
        data = [] if any(flag.startswith("--DATA_PATH") for flag in flags) else [f"--DATA_PATH={self.data}"]
        return data if any(flag.startswith(("--NW", "--CFG")) for flag in flags) else [*data, "--NW=0"]

    def script(self, *flags: str, environment: dict | None = None, **options) -> subprocess.Popen:
        """Start the script as a process of its own."""
        command = [*options.pop("launcher", [sys.executable]), str(ROOT / f"train_{self.task}.py"), *flags]
        return subprocess.Popen(
            [*command, *self.machine(flags)],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            **options,
        )

    def stop_in_second_epoch(
        self, version: str, flags: Sequence[str], number: int, search: bool = False
    ) -> tuple[str, int]:
        """Train or search until the second epoch takes its steps, send a signal; return output and exit code."""
        process = self.script(*(self.search_flags if search else self.train_flags)(version, *flags))
        log, end = self.folder / f"logs/log/log_run_{version}.txt", time.monotonic() + 240
        while not (log.exists() and "epoch 2 begins" in log.read_text()):
            assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(number)
        output, _ = process.communicate(timeout=240)
        return output, process.returncode

    def checkpoint(self, version: str, name: str) -> Path:
        """The path of a run's checkpoint."""
        return self.folder / "logs" / "ckpts" / f"ckpt_{version}" / name

    def result(self, split: str, version: str, kind: str = "json"):
        """Read one of the files that scoring wrote."""
        return json.loads((self.folder / f"logs/ckpts/result_{split}/result_run_{version}.{kind}").read_text())

    def train(self, version: str, *flags: str) -> None:
        """Train in a process of its own; fails with its output."""
        process = self.script(*self.train_flags(version, *flags))
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output


def with_shared_memory(options: str) -> list[str]:
    """What starts a command with another /dev/shm, by the options of its mount."""
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    prefix = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system")
    return prefix


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A demo world of 40 images; nobody writes into it."""
    folder = tmp_path_factory.mktemp("world") / "data"
    write_world(folder, images=40, seed=0)
    return folder


@pytest.fixture(scope="session")
def few_images(tmp_path_factory) -> Path:
    """The smallest demo world, so that an epoch takes a fraction of a second; nobody writes into it."""
    folder = tmp_path_factory.mktemp("few") / "data"
    write_world(folder, images=20, seed=0)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, world) -> Workplace:
    """A workplace with a run "base" of two epochs, all checkpoints kept; nobody changes it."""
    place = Workplace(tmp_path_factory.mktemp("trained"), world)
    place.train("base", "--KEEP_ALL")
    return place


@pytest.fixture(scope="session")
def grounded(tmp_path_factory, world) -> Workplace:
    """The same for grounding."""
    place = Workplace(tmp_path_factory.mktemp("grounded"), world, "vgd")
    place.train("base", "--KEEP_ALL")
    return place


@pytest.fixture(scope="session")
def matched(tmp_path_factory, world) -> Workplace:
    """The same for image-text matching, with hard negatives from its second epoch on."""
    place = Workplace(tmp_path_factory.mktemp("matched"), world, "itm")
    place.train("base", "--KEEP_ALL")
    return place


@pytest.fixture
def place(tmp_path, world) -> Workplace:
    """A fresh workplace."""
    return Workplace(tmp_path, world)


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the script's main in this process, in a workplace's folder."""

    def call(place: Workplace, *flags: str) -> Run:
        monkeypatch.chdir(place.folder)
        capsys.readouterr()
        code = main(task_named(place.task), [*flags, *place.machine(flags)])
        return Run(code, capsys.readouterr().err)

    return call


@pytest.fixture(autouse=True)
def quiet_logger():
    """Give the package's logger back as it was: a run redirects it."""
    yield
    logger = logging.getLogger("mmnas")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
