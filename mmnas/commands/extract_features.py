"""`python -m mmnas extract-features`: region features of one's own images, by the published detector."""

import argparse
import re
import sys
import time
from pathlib import Path

from mmnas.errors import ConfigError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser(
        "extract-features",
        help="extract region features from images with the bottom-up-attention detector",
        description="Extract region features from images, as the published ones were: an .npz file for each image, "
        "named after it, or one store for all. What OUT already holds is skipped: start an interrupted run again.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="image files, folders, or patterns in quotes")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="folder for the .npz files, or NAME.features for a feature store"
    )
    parser.add_argument(
        "--detector", required=True, type=Path, metavar="FILE",
        help="the detector's weights: .caffemodel, .pth, .pkl, pytorch_model.bin, or from convert-detector",
    )  # fmt: skip
    parser.add_argument(
        "--boxes", default="10-100", metavar="N|MIN-MAX",
        help="regions per image: 10-100 for VQA, 36 for matching, 100 for grounding (default: %(default)s)",
    )  # fmt: skip
    help_ = "keep regions of at least this confidence (default: %(default)s)"
    parser.add_argument("--threshold", type=float, default=0.2, help=help_)
    parser.add_argument(
        "--given-boxes", type=Path, metavar="DIR",
        help="use the boxes (`bbox`, pixels) of the .npz files in this folder, instead of detecting any",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="such as cuda, or cuda:0,cuda:1 (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32",
        help="bfloat16 is faster and gives slightly different features (default: %(default)s)",
    )  # fmt: skip
    parser.set_defaults(run=extract_features)


def extract_features(options: argparse.Namespace) -> int:
    """Extract, and say how many images are done and which cannot be read."""
    from mmnas.data.made_by import Choice
    from mmnas.detector.extraction import Job, extract, parse_devices  # slow to import
    from mmnas.detector.images import find_images

    least, most = parse_boxes(options.boxes)
    if not 0 <= options.threshold <= 1:
        raise ConfigError(f"--threshold={options.threshold} must be a probability from 0 to 1")
    if options.out.is_file():
        raise ConfigError(f"OUT must be a folder, and {options.out} is a file; pack-features makes one store of it")
    if options.given_boxes and not options.given_boxes.is_dir():
        raise ConfigError(f"--given-boxes={options.given_boxes} is not a folder")
    devices = parse_devices(options.device)
    job = Job(
        find_images(options.images), options.detector, options.out, Choice(least, most, options.threshold),
        options.given_boxes, options.precision,
    )  # fmt: skip
    start = time.perf_counter()
    outcome = extract(job, devices)
    rate = outcome.written / (time.perf_counter() - start)
    for line in outcome.unreadable:
        print(f"not extracted: {line}", file=sys.stderr)
    if (warning := outcome.unusual()) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"{options.out}: {outcome.written} images extracted, {rate:.2g} per second; {outcome.skipped} were there, "
        f"{len(outcome.unreadable)} cannot be read"
    )
    return 0


def parse_boxes(text: str) -> tuple[int, int]:
    """Return least and most of `--boxes`, such as 36 or 10-100. Raises ConfigError for other forms."""
    match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", text)
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most <= 300:
        raise ConfigError(f"--boxes={text} must be a number such as 36 or a range such as 10-100, from 1 to 300")
    return least, most
