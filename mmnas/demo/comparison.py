"""The rivals that a searched genotype is compared with: the pattern of MCAN's blocks, and random genotypes."""

from itertools import cycle
from pathlib import Path

import numpy as np

from mmnas.config import load_config
from mmnas.engine.checkpoint import Checkpoint, checkpoints_in, load_checkpoint
from mmnas.genotype import Genotype, read_genotype, write_genotypes
from mmnas.paths import RunPaths
from mmnas.search.supernet import space_of

# MCAN's blocks (Yu et al., CVPR 2019), repeated to the depth of the search space.
MCAN = (("self_att_64", "feed_forward"), ("self_att_64", "guided_att_64", "feed_forward"))


def write_contestants(path: Path, found: Path, space: Genotype, randoms: int, seed: int) -> list[str]:
    """Write the newest genotype in the file `found`, MCAN's pattern and random ones as epochs 0, 1, ... of `path`.

    Returns the name of each epoch, in order.
    """
    contestants = [read_genotype(found), mcan(space), *random_genotypes(space, randoms, seed)]
    write_genotypes(path, dict(enumerate(contestants)))
    return ["searched", "MCAN", *(f"random {number}" for number in range(1, randoms + 1))]


def search_space_of(task: str) -> Genotype:
    """Return the search space of a task's tiny supernet."""
    return space_of(load_config(task, "tiny", split="train", version="space"))


def mcan(space: Genotype) -> Genotype:
    """Return MCAN's pattern at the depth of `space`."""
    encoder, decoder = (cycle(blocks) for blocks in MCAN)
    return Genotype(tuple((next(encoder),) for _ in space.encoder), tuple((next(decoder),) for _ in space.decoder))


def random_genotypes(space: Genotype, count: int, seed: int) -> list[Genotype]:
    """Draw paths through `space`; in each block every candidate is equally likely."""
    rng = np.random.default_rng(seed)
    rows = (*space.encoder, *space.decoder)
    return [space.take([int(rng.integers(len(row))) for row in rows]) for _ in range(count)]


def last_accuracy(logs: Path, version: str, headline: str) -> float:
    """Return the val figure after the last epoch of a run, in percent."""
    checkpoint = load_checkpoint(checkpoints_in(RunPaths(logs, version).checkpoints)[-1])
    assert isinstance(checkpoint, Checkpoint)
    return float(checkpoint.history[-1]["metrics"][headline])
