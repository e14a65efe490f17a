"""Where the features of a packed store lie while a run reads them: on the disk, in memory, or on the device.

In memory and on the device they are one table. Workers then load the numbers of a batch's rows, which are gathered
from the table. Letters: B batch, N regions, R regions of the store, D feature size.
"""

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from mmnas.data.store import FEATURES, FeatureStore
from mmnas.engine.distributed import Group
from mmnas.engine.logging import progress
from mmnas.errors import ConfigError
from mmnas.tasks.base import Task

log = logging.getLogger(__name__)
CHUNK = 4096  # rows that are loaded at a time
SHARE = 0.5  # of a GPU's free memory; features take more only when asked to
PLACES = {"stream": "the disk", "memory": "memory", "device": "the device's memory"}
# What says how much memory there is for programs and their files: a file, a pattern in it, and the pattern's unit.
_LIMITS = (
    ("/proc/meminfo", r"MemAvailable: +(\d+) kB", 1024),
    ("/sys/fs/cgroup/memory.max", r"\d+", 1),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", r"\d+", 1),
)


def place_features(task: Task, dataset: Any, group: Group) -> None:
    """Load the features of a data set to where the configuration says, or to the fastest place that has room.

    Raises `ConfigError` where the configured one has none, before anything is loaded.
    """
    store, asked = store_of(dataset), task.config.training.features
    if store is None:
        if asked not in (None, "stream"):
            raise ConfigError(
                f"--FEATURES={asked} needs packed features: pack them by python -m mmnas pack-features"
            )
        return
    if store.place is None:  # neither training nor scoring has asked yet
        store.place, reason = choose(store.header.file_sizes()[FEATURES], asked, group.device)
        log.info("features are read from %s: %s", PLACES[store.place], reason)
        if store.place != "stream":
            load_table(store, group, in_place=store.place == "memory")


def store_of(dataset: Any) -> FeatureStore | None:
    """Return the store that a data set reads, or None."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    source = getattr(getattr(dataset, "images", dataset), "regions", None)
    return source if isinstance(source, FeatureStore) else None


def choose(size: int, asked: str | None, device: torch.device) -> tuple[str, str]:
    """Return where features of so many bytes are to lie, and why. Raises `ConfigError` where they do not fit."""
    if asked == "stream":
        return asked, "as --FEATURES says"
    if asked is None and device.type == "cpu":
        return "stream", "on a CPU, reading is hidden behind the steps"
    place = asked or "device"
    free = free_memory(device if place == "device" else torch.device("cpu"))
    figures = f"they take {size / 1e9:.2f} GB, and {PLACES[place]} has {free / 1e9:.2f} GB free"
    if size <= (free if asked else free * SHARE):
        return place, figures
    if asked:
        raise ConfigError(
            f"--FEATURES={place} has no room: {figures}; use --FEATURES=stream, or pack them with --dtype float16"
        )
    return "stream", f"{figures}, half of it for training"


def free_memory(device: torch.device) -> int:
    """Return the bytes that a GPU can still give, or the system, in the limits of a container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path, pattern, unit in _LIMITS:
        with contextlib.suppress(OSError):
            found += [unit * int(number) for number in re.findall(pattern, Path(path).read_text())]
    return min(found)


def load_table(store: FeatureStore, group: Group, in_place: bool) -> None:
    """Map the table of a store into memory, or copy it to the device, and compute the sums of its rows."""
    mapped = store.map_features()  # (R, D)
    table = mapped if in_place else torch.empty_like(mapped, device=group.device)
    sums = torch.empty(len(mapped))
    for first in progress(range(0, len(mapped), CHUNK), "features", group.rank, leave=False):
        rows = slice(first, first + CHUNK)
        if not in_place:
            table[rows] = mapped[rows]
        sums[rows] = table[rows].sum(dim=1, dtype=torch.float32)  # also reads what is only mapped
    store.table, store.sums = table, sums.numpy()


def gather(store: FeatureStore, rows: Tensor, mask: Tensor) -> Tensor:
    """Return the features (B, N, D) of row numbers (B, N), as a loader does, on the device of mask (B, N)."""
    assert store.table is not None
    if store.table.device.type == "cpu":
        store.require_whole()
    chosen = store.table.index_select(0, rows.to(store.table.device, non_blocking=True).flatten())  # (B N, D)
    features = chosen.to(mask.device, non_blocking=True).float().view(*rows.shape, -1)
    return features.masked_fill_(~mask[..., None], 0)
