"""Running the tasks' scripts as a user would, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mmnas.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = ROOT / "logs" / "ckpts" / "arch"
# So small a network gains little from a second thread, and loses much when other programs want the core.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def start_script(task: str, flags: Sequence[str], **options) -> subprocess.Popen:
    """Start a task's script in the working directory; `options` are those of `Popen`."""
    path = ROOT / f"train_{task}.py"
    if not path.is_file():
        raise ConfigError(f"{path} not found: the demo runs in a clone of the project")
    return subprocess.Popen([sys.executable, str(path), *flags], env={**ONE_THREAD, **os.environ}, **options)


def run_script(task: str, flags: Sequence[str]) -> int:
    """Say the command, run it, return its exit code; its output goes where this process's does."""
    settings = " ".join(f"{key}={value}" for key, value in ONE_THREAD.items())
    say(f"$ {settings} python3 train_{task}.py {' '.join(flags)}")
    process = start_script(task, flags)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the script has been told too, and saves
        return process.wait()


def say(text: str) -> None:
    """Print a line at once, before what a script will print."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
