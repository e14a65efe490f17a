"""Commands in processes of their own that SIGKILL ends at chosen moments and that go on afterwards.

A server process imports torch once and forks off each command, so that a round takes a second, not five.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from mmnas.tasks import TASKS, task_named

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["torch._dynamo", "torch.utils.tensorboard", "pytest", "mmnas.__main__", "mmnas.run.cli"]
    + ["mmnas.data.store_writer"]
    + [f"mmnas.tasks.{name}" for name in TASKS]
)
OUTPUT = "output.txt"

Moment = Callable[[BaseProcess], None]
"""Waits for the moment to kill a process, or for its end."""


def start(command: str, flags: Sequence[str], folder: Path) -> BaseProcess:
    """Start the script of a task, or a command of `python -m mmnas`, in `folder`."""
    process = _SERVER.Process(target=_call, args=(command, list(flags), str(folder)))
    process.start()
    return process


def _call(command: str, flags: list[str], folder: str) -> None:
    import torch
    from tqdm import tqdm

    from mmnas import __main__
    from mmnas.run import cli

    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a kill would leave to the server
    os.chdir(folder)
    output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.exit(cli.main(task_named(command), flags) if command in TASKS else __main__.main([command, *flags]))


def after(seconds: float) -> Moment:
    """The moment so long after the start."""
    return lambda process: process.join(seconds)


def in_save(folder: Path, number: int) -> Moment:
    """The moment at which a run writes its checkpoint for the `number`-th time, from 1."""

    def wait(process: BaseProcess) -> None:
        saves, saving = 0, unfinished(folder, process.pid)
        while process.is_alive() and saves < number:
            time.sleep(0.0005)
            before, saving = saving, unfinished(folder, process.pid)
            saves += bool(saving) and saving != before

    return wait


def unfinished(folder: Path, pid: int | str = "*") -> list[str]:
    """Return the names of the files that a process is writing, or was killed while it wrote."""
    return sorted(path.name for path in folder.glob(f".*.{pid}.tmp"))


def killed_and_resumed(
    command: str, again: Callable[[], Sequence[str]], folder: Path, moments: Iterator[Moment]
) -> int:
    """Start a command with the flags that `again` gives, kill it, and so on until it ends; return the kills.

    Where no moments are left it is not killed any more. Fails when it ends otherwise than with code 0.
    """
    kills = 0
    while True:
        process = start(command, again(), folder)
        moment = next(moments, None)
        if moment is not None:
            moment(process)
            process.kill()
        process.join()
        if process.exitcode == 0:
            return kills
        assert process.exitcode == -signal.SIGKILL, (folder / OUTPUT).read_text()[-2000:]
        kills += 1
