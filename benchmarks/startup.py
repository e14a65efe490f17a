"""Seconds and peak memory of what a VQA run reads before its first step: vocabularies and training set.

    python3 -m benchmarks.startup [--scale 1.0] [--folder FOLDER]

Writes question and annotation files of the published form and number, with made-up text (about 1.05 GB), and
builds the vocabularies and the training set of train+val+vg from them in a fresh process. Region features are the
only part left out: every image counts as there. A folder that already holds the files is used as it is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from mmnas.data.features import Regions

# Questions of each split and the largest number of images that they are about.
QUESTIONS = {"train": 443_757, "val": 214_354, "test": 447_793, "vg": 485_000}
IMAGES = {"train": 82_783, "val": 40_504, "test": 81_434, "vg": 51_208}
ANSWERS = 3129  # that more than eight questions of train and val have
WORDS = 20_000
HIGHEST_IMAGE = 581_929
QUESTION_TYPES = ("what is the", "is the", "how many", "what color is the", "are there", "none of the above")
ANSWER_TYPES = ("other", "yes/no", "number")


class AllImages:
    """A source that claims the regions of every image."""

    made_by = None

    def __contains__(self, image_id: int) -> bool:
        return True

    def __getitem__(self, image_id: int) -> Regions:
        box = np.array([[0, 0, 2, 2]], np.float32)
        return Regions(np.zeros((1, 2048), np.float32), box, np.array([2, 2], np.float32))

    def describe(self) -> str:
        """Return what stands for the folders."""
        return "no folder"


def write_files(folder: Path, scale: float) -> None:
    """Write the files of all splits, `scale` times as many questions as published."""
    rng = np.random.default_rng(0)
    syllables = ["ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu"]
    words = ["".join(rng.choice(syllables, 2 + number % 3)) + str(number) for number in range(WORDS)]
    for split, count in QUESTIONS.items():
        count = int(count * scale)
        images = np.sort(rng.integers(1, HIGHEST_IMAGE, count * IMAGES[split] // QUESTIONS[split]))
        image_ids = images[np.arange(count) * len(images) // count]
        rows = [(int(image), int(image) * 1000 + number) for number, image in enumerate(image_ids)]
        _write(folder / _name(split, "questions"), "questions", _questions(rows, words, rng))
        if split != "test":
            _write(folder / _name(split, "annotations"), "annotations", _annotations(rows, words, rng))


def _name(split: str, kind: str) -> str:
    if split == "vg":
        return f"VG_{kind}.json"
    part = "test2015" if split == "test" else f"{split}2014"
    return f"v2_OpenEnded_mscoco_{part}_questions.json" if kind == "questions" else f"v2_mscoco_{part}_{kind}.json"


def _write(path: Path, key: str, entries: Iterator[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'{{"info": {{"version": "2.0"}}, "data_type": "mscoco", "{key}": [')
        file.write(next(entries))
        file.writelines(f", {entry}" for entry in entries)
        file.write("]}")


def _zipf(rng: np.random.Generator, values: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draw indices of which small ones are frequent."""
    return (values ** rng.random(shape) - 1).astype(np.int64)


def _questions(rows: list[tuple[int, int]], words: list[str], rng: np.random.Generator) -> Iterator[str]:
    drawn, lengths = _zipf(rng, WORDS, (len(rows), 9)).tolist(), rng.integers(2, 9, len(rows)).tolist()
    for (image, question), chosen, length in zip(rows, drawn, lengths, strict=True):
        text = " ".join(["What is", *(words[word] for word in chosen[:length])])
        yield f'{{"image_id": {image}, "question": "{text}?", "question_id": {question}}}'


def _annotations(rows: list[tuple[int, int]], words: list[str], rng: np.random.Generator) -> Iterator[str]:
    usual, others = _zipf(rng, ANSWERS, (len(rows),)), _zipf(rng, ANSWERS, (len(rows), 3))
    every = np.arange(len(rows))
    usual[every % 20 == 0] = (every[every % 20 == 0] // 20) % ANSWERS  # each one often enough
    tail = rng.random(len(rows)) < 0.1
    votes = rng.integers(1, 11, len(rows)).tolist()
    for number, ((image, question), own, other) in enumerate(
        zip(rows, usual.tolist(), others.tolist(), strict=True)
    ):
        answer = f"{words[own]} {words[number % WORDS]}" if tail[number] else words[own]
        given = [answer] * votes[number] + [words[each] for each in other] * 3
        answers = ", ".join(
            f'{{"answer": "{text}", "answer_confidence": "yes", "answer_id": {place}}}'
            for place, text in enumerate(given[:10], 1)
        )
        yield (
            f'{{"question_type": "{QUESTION_TYPES[number % 6]}", "multiple_choice_answer": "{answer}", '
            f'"answers": [{answers}], "image_id": {image}, "answer_type": "{ANSWER_TYPES[number % 3]}", '
            f'"question_id": {question}}}'
        )


def start(root: Path) -> dict[str, float]:
    """Build vocabularies and training set; return seconds, peak memory and what was built."""
    from mmnas.config import load_config
    from mmnas.tasks.vqa import VQATask

    config = load_config("vqa", "small", split="train+val+vg", version="x", overrides={"paths.data": str(root)})
    imported, begin, cpu = _peak_gb(), time.perf_counter(), time.process_time()
    with mock.patch("mmnas.tasks.vqa.question_features", return_value=AllImages()):
        task = VQATask(config)
        task.vocabularies = task.build_vocabularies()
        vocabularies = time.perf_counter()
        dataset = task.training_set()
    return {
        "samples": len(dataset),
        "words": len(task.vocabularies["tokens"]),
        "answers": len(task.vocabularies["answers"]),
        "vocabularies (s)": round(vocabularies - begin, 1),
        "training set (s)": round(time.perf_counter() - vocabularies, 1),
        "both, processor (s)": round(time.process_time() - cpu, 1),
        "peak after imports (GB)": round(imported, 2),
        "peak (GB)": round(_peak_gb(), 2),
    }


def _peak_gb() -> float:
    """Return the most memory that this process has held; `ru_maxrss` would count that of its parent, too."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024 / 1e9


def main() -> int:
    """Write the files where they are missing and print what a fresh process needs for them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the published number of questions")
    parser.add_argument("--folder", type=Path, help="keep the files here (default: a temporary folder)")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start is not None:
        print(json.dumps(start(options.start)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        folder = root / "vqa"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            write_files(folder, options.scale)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{size / 1e9:.2f} GB of JSON files in {folder}")
        command = [sys.executable, "-m", "benchmarks.startup", "--start", str(root)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            print(f"{name:<24} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
