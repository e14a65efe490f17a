"""The letters of pictures: DejaVu Sans, which has most alphabets, and installed fonts for what it lacks."""

import importlib.util
import logging
import subprocess
import unicodedata
from functools import cache
from itertools import groupby
from pathlib import Path

from PIL import ImageFont

from mmnas.errors import JOINERS

Font = ImageFont.FreeTypeFont

log = logging.getLogger(__name__)


def font_of(size: int, bold: bool = False) -> Font:
    """Return DejaVu Sans, its letters `size` pixels high."""
    return _opened(_usual(bold), size)


def in_fonts(text: str, size: int, bold: bool = False) -> list[tuple[str, Font]]:
    """Return the parts of a text, each with a font that has its letters, as far as one is installed."""
    paths: list[str] = []
    for letter in text:
        mark = letter in JOINERS or unicodedata.category(letter).startswith("M")  # on the letter before it
        paths.append(paths[-1] if mark and paths else _path_for(letter, bold))
    parts = groupby(zip(text, paths, strict=True), key=lambda part: part[1])
    return [("".join(letter for letter, _ in part), _opened(path, size)) for path, part in parts]


@cache
def _opened(path: str, size: int) -> Font:
    return ImageFont.truetype(path, size)


@cache
def _usual(bold: bool) -> str:
    spec = importlib.util.find_spec("matplotlib")  # which is slow to import, and is not
    assert spec is not None and spec.origin is not None
    name = f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return str(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name)


@cache
def _path_for(letter: str, bold: bool) -> str:
    if letter.isascii() or ord(letter) in _known(bold):
        return _usual(bold)
    for path, letters in _installed():
        if any(ord(letter) in part for part in letters):
            return path
    _warn()
    return _usual(bold)


@cache
def _known(bold: bool) -> frozenset[int]:
    from fontTools.ttLib import TTFont  # type: ignore[import-untyped]  # a dependency of matplotlib

    return frozenset(TTFont(_usual(bold), lazy=True).getBestCmap())


@cache
def _installed() -> list[tuple[str, list[range]]]:
    """Return the fonts that fontconfig knows, regular ones first, with the letters that they have."""
    command = ["fc-list", "--format", r"%{file}\t%{charset}\n", ":scalable=true:color=false"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return []  # as without fontconfig
    rows = (line.partition("\t")[::2] for line in text.splitlines())
    fonts = [(path, [_range(*part.split("-")) for part in letters.split()]) for path, letters in rows]
    return sorted(fonts, key=lambda font: ("Regular" not in font[0], font[0]))


def _range(first: str, last: str = "") -> range:
    return range(int(first, 16), int(last or first, 16) + 1)


@cache
def _warn() -> None:
    log.warning("no installed font has some letters of these texts; pictures show boxes in their place")
