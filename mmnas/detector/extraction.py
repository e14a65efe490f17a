"""Region features of many images, written one by one, so that an interrupted run can go on."""

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mmnas.data.features import MAX_REGIONS, Regions, check_regions, load_arrays, open_npz
from mmnas.data.made_by import Choice, MadeBy
from mmnas.detector.images import file_of, read_image
from mmnas.detector.network import Detector
from mmnas.detector.regions import describe_given, detect
from mmnas.detector.weights import read_weights
from mmnas.detector.writers import STORE_ENDING, Writer, open_writer
from mmnas.errors import ConfigError, DataError

# Mean and share of zeros of features; with the published weights, 0.50 to 0.84 and 0.24 to 0.39 on ten real images.
_USUAL_LEAST, _USUAL_MOST = (0.3, 0.15), (1.2, 0.6)


@dataclass
class Outcome:
    """What became of the images; `unreadable` are lines for the user."""

    written: int = 0
    skipped: int = 0
    unreadable: list[str] = field(default_factory=list)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """How many numbers the features have, their sum, and how many are zero."""

    def add(self, other: "Outcome") -> None:
        """Count what another process did, too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def unusual(self) -> str | None:
        """Return a warning where the features are unlike those of the published weights on photographs."""
        found = self.sums[1:] / max(self.sums[0], 1)
        if not self.sums[0] or ((found >= _USUAL_LEAST) & (found <= _USUAL_MOST)).all():
            return None
        return (
            f"the features have a mean of {found[0]:.2f} and {found[1]:.0%} zeros, but with the published weights, "
            "those of photographs have mostly 0.5 to 0.8 and 24% to 39%: are these those weights, and photographs?"
        )


@dataclass(frozen=True)
class Job:
    """What to extract: image files, the file of the weights, the folder to write, and how."""

    images: Sequence[Path]
    detector: Path
    out: Path
    choice: Choice
    given_boxes: Path | None = None
    precision: str = "float32"


def extract(job: Job, devices: Sequence[torch.device]) -> Outcome:
    """Extract the regions of all images that are not there yet, one process for each device.

    Raises DataError for weights or a folder that cannot be used; an unreadable image only joins the list.
    """
    if len(devices) > 1 and job.out.suffix == STORE_ENDING:
        raise ConfigError(f"{job.out} is a store, which one process writes: name one --device, or write a folder")
    parts = [job.images[index :: len(devices)] for index in range(len(devices))]
    if len(devices) == 1:
        return _extract_part(job, devices[0], 0, parts[0])
    threads = max(1, torch.get_num_threads() // len(devices))
    context = multiprocessing.get_context("spawn")
    outcome = Outcome()
    with ProcessPoolExecutor(len(devices), context, _begin_process, (threads,)) as pool:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # in all processes: this one alone answers it
            results = pool.map(partial(_extract_part, job), devices, range(len(devices)), parts)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            for part in results:
                outcome.add(part)
        except BrokenProcessPool:
            raise DataError("a process died, perhaps for want of memory; run again to go on") from None
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return outcome


def _begin_process(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]  # this process is a child
    os.kill(os.getpid(), signal.SIGTERM)


def _extract_part(job: Job, device: torch.device, position: int, images: Sequence[Path]) -> Outcome:
    """Extract the images of one process, `position` giving the line of its progress."""
    weights = read_weights(job.detector)
    made_by = MadeBy(weights.digest, None if job.given_boxes else job.choice, job.precision)
    network = Detector.from_weights(weights.tensors, weights.anchors, job.precision == "bfloat16").to(device)
    del weights
    with open_writer(job.out, made_by) as writer, torch.backends.cudnn.flags(allow_tf32=False):
        todo = [path for path in images if path.name not in writer]
        outcome = Outcome(skipped=len(images) - len(todo))
        bar = tqdm(todo, desc=str(device), unit="image", position=position, smoothing=0.05, disable=not todo)
        _extract_each(bar, network, writer, job, outcome)
    return outcome


def _extract_each(paths: Iterable[Path], network: Detector, writer: Writer, job: Job, outcome: Outcome) -> None:
    for path in paths:
        try:
            image = read_image(path)
            if job.given_boxes is None:
                regions = detect(network, image, job.choice)
            else:
                regions = describe_given(network, image, read_boxes(job.given_boxes, path, image.shape))
            writer.add(path.name, regions)
        except DataError as exception:
            outcome.unreadable.append(f"{path}: {str(exception).removeprefix(f'{path}: ')}")
            continue
        outcome.written += 1
        features = regions.features
        outcome.sums += features.size, features.sum(dtype=np.float64), np.count_nonzero(features == 0)


def read_boxes(folder: Path, image: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the boxes (K, 4) given for an image: `bbox` of `<image file>.npz` or `<stem>.npz` in a folder.

    Raises DataError when there are none, or they do not lie in the image of `shape`.
    """
    path = file_of(folder, image)
    if path is None:
        raise DataError(f"no boxes: {folder / image.name}.npz not found")
    with open_npz(path) as file:
        (boxes,), _ = load_arrays(path, ("bbox",), MAX_REGIONS * 4 * 8, file)
    if boxes.ndim != 2 or not 0 < len(boxes) <= MAX_REGIONS:
        raise DataError(f"{path}: bbox is {boxes.dtype} {boxes.shape}, expected numbers (K, 4)")
    given = Regions(np.zeros((len(boxes), 1)), boxes, np.array(shape[:2]))
    return check_regions(given, "bbox", path).boxes


def parse_devices(text: str) -> list[torch.device]:
    """Return the devices of `--device`, such as "cpu", "cuda" or "cuda:0,cuda:1". Raises ConfigError for others."""
    devices = []
    for name in text.split(","):
        if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name.strip()):
            raise ConfigError(f"--device={text}: use cpu, or devices such as cuda:0,cuda:1")
        device = torch.device(name.strip())
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"--device={text}: torch can use {torch.cuda.device_count()} GPUs of this machine")
        devices.append(device)
    return devices
