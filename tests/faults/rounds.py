"""Rounds of kills, each followed by a comparison, to the bit, with the same command left alone.

Moments are drawn as shares of the time that the command takes when left alone, and at its writes.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch

from mmnas.data.store import FeatureStore
from mmnas.data.store_writer import verify
from mmnas.engine.checkpoint import checkpoints_in, load_checkpoint
from mmnas.run.lock import NAME
from tests.conftest import Workplace
from tests.data.packing_images import SIZE, write_images
from tests.faults.killing import Moment, after, in_save, killed_and_resumed, start, unfinished

EPOCHS = 3
IMAGES = 1500


@dataclass
class Kills:
    """How many there were, and how many left an unfinished file."""

    total: int = 0
    in_writes: int = 0


def kill_learning(place: Workplace, run: str, kills: int, seed: int) -> Kills:
    """Kill runs of the workplace's task so often, resume each to its end, compare it with one left alone."""

    def fresh(version: str) -> list[str]:
        flags = place.search_flags if run == "search" else place.train_flags
        return [*flags(version, f"--MAX_EPOCH={EPOCHS}"), f"--DATA_PATH={place.data}"]

    done, rng = Kills(), random.Random(f"{place.task} {run} {seed}")
    seconds = _left_alone(place.task, fresh("whole"), place.folder)
    for version in (f"cut{number}" for number in count()):
        if done.total >= kills:
            break
        folder = place.checkpoint(version, "x").parent

        def again(version: str = version, folder: Path = folder) -> Sequence[str]:
            done.in_writes += bool(unfinished(folder))
            resume = [f"--RUN={run}", f"--VERSION={version}", "--RESUME", f"--DATA_PATH={place.data}", "--NW=0"]
            return resume if list(folder.glob("epoch*.pkl")) else fresh(version)

        moments = _moments(kills - done.total, rng, seconds, lambda n, folder=folder: in_save(folder, n))
        done.total += killed_and_resumed(place.task, again, place.folder, moments)
        _compare_runs(place, version, run)
    return done


def _left_alone(command: str, flags: Sequence[str], folder: Path) -> float:
    """Run a command to its end; return its seconds."""
    start(command, ["--help"], folder).join()  # what forks processes off has imported everything
    begin = time.monotonic()
    assert killed_and_resumed(command, lambda: flags, folder, iter(())) == 0
    return time.monotonic() - begin


def _moments(
    number: int, rng: random.Random, seconds: float, at_write: Callable[[int], Moment]
) -> Iterator[Moment]:
    for _ in range(number):
        share, write = rng.uniform(0.02, 0.6), rng.randint(1, 3)
        yield after(share * seconds) if rng.random() < 0.5 else at_write(write)


def _compare_runs(place: Workplace, version: str, run: str) -> None:
    one, other = (load_checkpoint(place.checkpoint(name, f"epoch{EPOCHS}.pkl")) for name in (version, "whole"))
    for name in one.__struct_fields__:
        if name != "config":  # which names the version
            assert_equal(getattr(one, name), getattr(other, name), name)
    if run == "search":
        for name in ("logs/ckpts/arch/{}.json", "logs/log/search_{}.json"):
            cut, whole = (place.folder / name.format(each) for each in (version, "whole"))
            assert cut.read_bytes() == whole.read_bytes()
    folder = place.checkpoint(version, NAME).parent
    assert {path.name for path in folder.iterdir()} == {NAME, *(path.name for path in checkpoints_in(folder))}
    assert len(checkpoints_in(folder)) <= 3 and (folder / NAME).read_text() == ""


def assert_equal(one, other, place: str) -> None:
    """Assert that two values of a checkpoint are the same, tensors to the bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), place
    else:
        assert one == other, place


def kill_packing(folder: Path, kills: int, seed: int) -> Kills:
    """Kill the packing of made-up images so often, going on after each, and compare store by store."""
    write_images(folder / "npz", range(1, IMAGES + 1))
    done, rng = Kills(), random.Random(f"packing {seed}")
    seconds = _left_alone("pack-features", _packing("whole"), folder)
    for path in (folder / f"cut{number}.features" for number in count()):
        if done.total >= kills:
            break
        moments = _moments(kills - done.total, rng, seconds, lambda n, path=path: in_save(path, n))
        flags = _packing(path.stem)
        done.total += killed_and_resumed("pack-features", lambda flags=flags: flags, folder, moments)
        _compare_stores(path, folder / "whole.features")
    return done


def _packing(name: str) -> list[str]:
    return ["npz", f"{name}.features", f"--feature-size={SIZE}"]


def _compare_stores(path: Path, whole: Path) -> None:
    assert verify(path) == verify(whole)  # the header with the sum of all checksums
    one, other = FeatureStore(path), FeatureStore(whole)
    for image_id in range(1, IMAGES + 1):
        for entry in dataclasses.fields(one[image_id]):
            values = (np.asarray(getattr(store[image_id], entry.name)) for store in (one, other))
            assert len({value.tobytes() for value in values}) == 1, image_id
