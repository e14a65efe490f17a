"""Runs a task's script with data-loading workers that hang, as on a file system that answers no more.

HANG is a number of samples and a number of batches: a worker that reads a data set of so many samples hangs after
that many batches. Of several processes, those of the last hang.
"""

import os
import sys
import time
from pathlib import Path

import torch.distributed as dist
from torch.utils.data import get_worker_info

from mmnas.engine import loading
from mmnas.run.cli import main
from mmnas.tasks import task_named

read, given = loading._Batches.__getitems__, 0
SAMPLES, BATCHES = map(int, os.environ["HANG"].split())


def hang(batches, indices):
    """Give a batch, or sleep for ever."""
    global given
    given += 1
    last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1
    if get_worker_info() and last and len(batches.dataset) == SAMPLES and given > BATCHES:
        Path("hangs").touch()
        time.sleep(10**6)
    return read(batches, indices)


loading._Batches.__getitems__ = hang
if __name__ == "__main__":
    sys.exit(main(task_named(Path(sys.argv[1]).stem.removeprefix("train_")), sys.argv[2:]))
