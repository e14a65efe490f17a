"""Processes that died, recognised by what torch raises in those that live: each becomes one clear line."""

import re

import torch.distributed as dist

from mmnas.errors import MMNasError

_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
_GLOO = re.compile(r"gloo|Connection (closed|reset) by peer|Broken pipe", re.IGNORECASE)


class LostProcess(MMNasError):
    """Another process of the group is gone; which one, and how it ended, only whoever started them knows."""


def explained(exception: RuntimeError) -> MMNasError | None:
    """Return what to tell the user about a worker or a process of the group that died; None for anything else."""
    worker = _WORKER.search(str(exception))
    if worker is not None:
        return MMNasError(
            f"data loading worker (process {worker[1]}) {worker[2].strip().rstrip('.')}; checkpoints are intact, "
            "go on with --RESUME; if memory ran out, take fewer workers by --NW"
        )
    if isinstance(exception, dist.DistError) or (dist.is_initialized() and _GLOO.search(str(exception))):
        return LostProcess(
            "the connection to another process of the run is lost; checkpoints are intact, go on with --RESUME"
        )
    return None
