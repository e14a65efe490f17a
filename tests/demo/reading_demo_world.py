"""How the tests of the demo world read its files back."""

import hashlib
import json
import pickle
import re
from pathlib import Path

from mmnas.demo.scenes import COLORS, SHAPES, SIZES, Scene, Thing

DATA_SETS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def questions(world: Path, name: str) -> dict[int, dict]:
    return {row["question_id"]: row for row in load(world / "vqa" / f"{name}_questions.json")["questions"]}


def annotations(world: Path, name: str) -> list[dict]:
    return load(world / "vqa" / f"{name}_annotations.json")["annotations"]


def refs(world: Path, dataset: str) -> list[dict]:
    return pickle.loads((world / "refs" / dataset / f"refs({DATA_SETS[dataset]}).p").read_bytes())


def captions(world: Path, dataset: str, split: str) -> list[str]:
    return (world / "itm" / dataset / f"{split}_caps.txt").read_text(encoding="utf-8").splitlines()


def caption_ids(world: Path, dataset: str, split: str) -> list[int]:
    return [int(line) for line in (world / "itm" / dataset / f"{split}_ids.txt").read_text().split()]


def fitting(text: str, scene: Scene) -> list[Thing]:
    """Return the things that have every attribute word of `text`."""
    words = {word.removesuffix("s") for word in re.findall(r"\w+", text.lower())} & {*SHAPES, *COLORS, *SIZES}
    return [thing for thing in scene.things if words <= {thing.shape, thing.color, thing.size}]


def hashes(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
