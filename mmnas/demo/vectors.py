"""Word vectors of the world, as a spaCy directory: words of one class are close to one another.

A word's vector depends on the word alone, so that it is the same in every world.
"""

import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mmnas.demo.scenes import COLORS, SHAPES, SIZES

WIDTH = 300

_CLASS_WEIGHT = np.float32(0.5)  # of the direction that a class has in common, beside the word's own
_CLASSES = {
    "shape": (*SHAPES, *(f"{shape}s" for shape in SHAPES), "object", "objects"),
    "color": (*COLORS, "color"),
    "size": (*SIZES, "size", "big"),
    "place": "left right top bottom above below upper lower".split(),
    "superlative": "leftmost rightmost highest lowest largest smallest nearest closest".split(),
    "number": "one two three four five six many number".split(),
}
_CLASS_OF = {word: name for name, words in _CLASSES.items() for word in words}


def write_vectors(out: Path, texts: Iterable[str]) -> int:
    """Write `out/word_vectors` for the words of all `texts`; return how many there are."""
    import spacy  # takes seconds to import, so only where it is needed
    from spacy.vectors import Vectors

    words = sorted({word for text in texts for word in re.findall(r"[^\W_]+", text.lower())} | set(_CLASS_OF))
    pipeline = spacy.blank("en")
    keys = [pipeline.vocab.strings.add(word) for word in words]
    data = np.stack([word_vector(word) for word in words])
    pipeline.vocab.vectors = Vectors(strings=pipeline.vocab.strings, data=data, keys=keys, name="demo_world")
    pipeline.meta["name"] = "demo_world"
    pipeline.to_disk(out / "word_vectors")
    return len(words)


def word_vector(word: str) -> np.ndarray:
    """Return the vector (300,) float32 of a word: its own direction, plus that of its class if it has one."""
    own = _direction(f"word {word}")
    return own + _CLASS_WEIGHT * _direction(f"class {_CLASS_OF[word]}") if word in _CLASS_OF else own


def _direction(name: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.standard_normal(WIDTH, dtype=np.float32) * np.float32(0.5)
