"""Batches from workers: what they hold, and that no error of a worker or of the system keeps a run waiting."""

import errno
import multiprocessing
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from mmnas.engine.loading import BatchLoader, _InMemory, dismiss_workers
from mmnas.errors import DataError, MMNasError
from tests.conftest import ROOT, with_shared_memory

CPU = torch.device("cpu")


class Numbers:
    """Samples of one to three regions, of types of several widths."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        features = np.full((index % 3 + 1, 5), index, np.float32)
        return {"flag": np.array(index % 2 == 0), "features": features, "index": np.array(index, np.int64)}


class Failing(Numbers):
    def __init__(self, exception):
        self.exception = exception

    def __getitem__(self, index):
        raise self.exception


class Endless(Numbers):
    def __getitem__(self, index):
        time.sleep(1000)


@pytest.fixture(autouse=True)
def no_workers_left():
    yield
    dismiss_workers()
    assert not multiprocessing.active_children()


def batches(dataset, workers, size=1):
    sampler = [list(range(first, first + size)) for first in range(0, len(dataset), size)]
    return BatchLoader(dataset, sampler, workers, CPU)


@pytest.mark.parametrize("size", [1, 3])
def test_batches_of_workers_are_those_of_the_process_itself(size):
    dataset = torch.utils.data.Subset(Numbers(), range(63))
    loader = batches(dataset, 2, size)
    for _ in range(2):
        kept = list(loader)  # all at once, so that none may lose its memory
        for batch, other in zip(kept, batches(dataset, 0, size), strict=True):
            assert batch.keys() == other.keys() == {"flag", "features", "index", "region_mask"}
            assert all(batch[name].dtype == other[name].dtype for name in batch)
            assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_torch_pins_what_was_handed_over(monkeypatch):
    """As on a GPU, in its thread; the copies stand for page-locked memory."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor.clone())
    batch = {"index": torch.arange(3), "mask": torch.tensor([True, False, True])}
    pinned = pin_memory(_InMemory(batch))
    assert all(torch.equal(pinned[name], batch[name]) for name in batch)
    error = DataError("9.npz is damaged")
    assert pin_memory(error) is error


def test_a_slow_reader_still_finds_its_batches():
    for number, batch in enumerate(batches(Numbers(), 2)):
        time.sleep(0.01)
        assert batch["index"].item() == number


def test_batches_are_released():
    for batch in batches(Numbers(), 1):
        held = len(os.listdir("/dev/fd"))
        assert batch["features"].is_contiguous()
    assert len(os.listdir("/dev/fd")) <= held


@pytest.mark.parametrize("workers", [2, 8])
def test_too_few_open_files_are_said_before_a_worker_starts(workers):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (8 * workers + 63, limit[1]))
    try:
        with pytest.raises(MMNasError, match=rf"{8 * workers + 64} open files are needed.*ulimit -n.*--NW=0"):
            batches(Numbers(), workers)
        assert len(list(batches(Numbers(), 0))) == 64
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("exception", "kind", "message"),
    [
        (OSError(errno.EMFILE, "Too many open files", "9.npz"), MMNasError, "(Too many open files): workers need"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MMNasError, "(Cannot allocate memory): workers need"),
        (MemoryError(), MMNasError, "(out of memory): workers need"),
        (OSError(errno.EACCES, "Permission denied", "9.npz"), DataError, "9.npz: Permission denied; check"),
        (DataError("9.npz is damaged"), DataError, "9.npz is damaged"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_one_line(exception, kind, message, workers):
    with pytest.raises(kind) as caught:
        list(batches(Failing(exception), workers))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.EROFS, errno.EPERM])
@pytest.mark.parametrize("where", ["os.memfd_create", "numpy.memmap"])
def test_a_batch_that_cannot_be_handed_over_is_one_line_at_once(monkeypatch, number, where):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    start = time.monotonic()
    monkeypatch.setattr(where, refuse)
    with pytest.raises(MMNasError) as caught:
        list(batches(Numbers(), 2))
    assert os.strerror(number) in str(caught.value) and "--NW=0" in str(caught.value)
    assert "\n" not in str(caught.value) and time.monotonic() - start < 20


def test_workers_that_hang_are_not_waited_for(monkeypatch):
    loader = batches(Endless(), 3)
    iterator = iter(loader._loader)
    assert len(multiprocessing.active_children()) == 3
    start = time.monotonic()
    dismiss_workers()
    assert not multiprocessing.active_children() and time.monotonic() - start < 5
    del iterator


_READ = """
import sys
from tests.engine.test_loading import Numbers, batches
from mmnas.errors import MMNasError
if __name__ == "__main__":
    try:
        print(len(list(batches(Numbers(), 2))), "batches")
    except MMNasError as exception:
        print("error:", exception)
"""


def read_in_process(prefix=(), **environment):
    command = [*prefix, sys.executable, "-c", _READ]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)


def test_a_long_path_for_temporary_files_does_no_harm(tmp_path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    done = read_in_process(TMPDIR=str(folder))
    assert done.stdout == "64 batches\n" and not done.stderr


@pytest.mark.parametrize("options", ["ro", "size=4k,nr_inodes=1"])
def test_a_shared_memory_without_space_is_one_line(options):
    done = read_in_process(with_shared_memory(options))
    assert done.stdout.startswith("error: batches cannot be loaded (") and done.stdout.count("\n") == 1
    assert "/dev/shm" in done.stdout and "--NW=0" in done.stdout and "Traceback" not in done.stderr
