"""Region features of many images, written one by one, so that an interrupted run can go on."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing
from tqdm import tqdm

from mmnas.data.features import MAX_REGIONS
from mmnas.data.made_by import Choice, MadeBy
from mmnas.detector.images import read_image
from mmnas.detector.network import Detector
from mmnas.detector.regions import describe_given, detect
from mmnas.detector.weights import read_weights
from mmnas.detector.writers import STORE_ENDING, Writer, open_writer
from mmnas.errors import ConfigError, DataError

# Features of the published weights on photographs: mean 0.50 to 0.84, and 24 to 39 % zeros, on ten real images.
_USUAL_MEAN, _USUAL_ZEROS = (0.3, 1.2), (0.15, 0.6)


@dataclass
class Outcome:
    """What became of the images; `unreadable` are lines for the user."""

    written: int = 0
    skipped: int = 0
    unreadable: list[str] = field(default_factory=list)
    numbers: int = 0
    """How many numbers the features have, their sum, and how many are zero."""
    total: float = 0.0
    zeros: int = 0

    def add(self, other: "Outcome") -> None:
        """Count what another process did, too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def unusual(self) -> str | None:
        """Return a warning where the features are unlike those of the published weights on photographs."""
        if not self.numbers:
            return None
        mean, zeros = self.total / self.numbers, self.zeros / self.numbers
        if _USUAL_MEAN[0] <= mean <= _USUAL_MEAN[1] and _USUAL_ZEROS[0] <= zeros <= _USUAL_ZEROS[1]:
            return None
        return (
            f"the features have a mean of {mean:.2f} and {zeros:.0%} zeros; with the published weights, those of "
            "photographs mostly have 0.5 to 0.8 and 24% to 39%: are these the published weights, and photographs?"
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
    context = torch.multiprocessing.get_context("spawn")
    outcome = Outcome()
    with ProcessPoolExecutor(len(devices), context, torch.set_num_threads, (threads,)) as pool:
        try:
            for part in pool.map(partial(_extract_part, job), devices, range(len(devices)), parts):
                outcome.add(part)
        except BrokenProcessPool:
            raise DataError("a process died, perhaps for want of memory; run again to go on") from None
    return outcome


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
            reason = str(exception)
            outcome.unreadable.append(reason if reason.startswith(str(path)) else f"{path}: {reason}")
            continue
        outcome.written += 1
        outcome.numbers += regions.features.size
        outcome.total += float(regions.features.sum(dtype=np.float64))
        outcome.zeros += int((regions.features == 0).sum())


def read_boxes(folder: Path, image: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the boxes (K, 4) given for an image: `bbox` of `<image file>.npz` or `<stem>.npz` in a folder.

    Raises DataError when there are none, or they do not lie in the image of `shape`.
    """
    names = [folder / f"{image.name}.npz", folder / f"{image.stem}.npz"]
    path = next((name for name in names if name.is_file()), None)
    if path is None:
        raise DataError(f"no boxes: {names[0]} not found")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            boxes = arrays["bbox"]
    except Exception as exception:  # numpy and zipfile raise many kinds for damaged bytes
        raise DataError(f"{path} holds no boxes, or is damaged ({type(exception).__name__})") from None
    if boxes.dtype.kind not in "iuf" or boxes.ndim != 2 or boxes.shape[1] != 4 or not 0 < len(boxes) <= MAX_REGIONS:
        raise DataError(f"{path}: bbox is {boxes.dtype} {boxes.shape}, expected numbers (K, 4)")
    height, width = shape[:2]
    inside = (boxes >= -1) & (boxes <= np.array([width, height, width, height]) + 1)
    if not inside.all() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise DataError(f"{path}: a box leaves the image of {width} x {height} pixels, or is inverted")
    return boxes


def parse_devices(text: str) -> list[torch.device]:
    """Return the devices of `--device`, such as "cpu", "cuda" or "cuda:0,cuda:1". Raises ConfigError for others."""
    devices = []
    for name in text.split(","):
        try:
            device = torch.device(name.strip())
        except RuntimeError:
            raise ConfigError(f"--device={text}: use cpu, or devices such as cuda:0,cuda:1") from None
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"--device={text}: only cpu and cuda devices are supported")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"--device={text}: torch can use {torch.cuda.device_count()} GPUs of this machine")
        devices.append(device)
    return devices
