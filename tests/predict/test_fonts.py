"""Letters that DejaVu Sans lacks are drawn from an installed font; where none has them, one line says so."""

import os
import subprocess

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import features

from mmnas.predict import fonts
from mmnas.predict.drawing import TEXT, block

CACHED = (fonts._path_for, fonts._installed, fonts._warn)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Let fontconfig know one font, whose only letter is a square as high as the text, for the Chinese of "one"."""
    pen = TTGlyphPen(None)
    for turn, corner in enumerate([(0, 0), (0, 1000), (1000, 1000), (1000, 0)]):
        (pen.lineTo if turn else pen.moveTo)(corner)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "one"])
    builder.setupCharacterMap({ord("一"): "one"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "one": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "one": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "Square-Regular.ttf")
    line = f"{tmp_path}/Square-Regular.ttf\t61-62 4e00\n"  # as `fc-list` gives it, with two letters too many
    monkeypatch.setattr(fonts.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, line, ""))


@pytest.fixture(autouse=True)
def forgotten():
    yield
    for each in CACHED:
        each.cache_clear()


def test_each_letter_is_drawn_by_a_font_that_has_it(installed, caplog):
    parts = [(text, os.path.basename(font.path)) for text, font in fonts.in_fonts("a一一 кошка", TEXT)]
    usual = "DejaVuSans.ttf"
    assert parts == [("a", usual), ("一一", "Square-Regular.ttf"), (" кошка", usual)]
    dark = block("一", 100, TEXT).convert("1", dither=0).histogram()[0]
    assert dark == pytest.approx(TEXT * TEXT, rel=0.15) and not caplog.records


def test_marks_and_joiners_stay_with_their_letter(installed, caplog):
    parts = fonts.in_fonts("\u4e00\ufe0f\u200d\u4e00\u0301a\u0301", TEXT)
    assert [text for text, _ in parts] == ["\u4e00\ufe0f\u200d\u4e00\u0301", "a\u0301"] and not caplog.records


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow without raqm knows no direction")
@pytest.mark.parametrize(
    ("text", "left"), [("\u05d0\u05d1\u05d2 \u4e00", True), ("a \u05d0\u05d1\u05d2 \u4e00", False)]
)
def test_the_first_letter_tells_from_where_a_line_of_two_fonts_is_read(installed, text, left):
    """The square that ends the line is at its left where it begins with Hebrew."""
    dark = np.asarray(block(text, 200, TEXT).convert("L")) < 128
    columns, square = (np.flatnonzero(dark.sum(axis=0) >= height) for height in (1, TEXT - 2))
    assert len(square) >= TEXT - 2 and (square.mean() < columns.mean()) == left


def test_letters_of_no_font_are_said_once(installed, caplog):
    block("日本 🐶", 100, TEXT)
    block("犬", 100, TEXT, bold=True)
    assert [record.getMessage().split(" has ")[0] for record in caplog.records] == ["no installed font"]


def test_pictures_are_drawn_without_fontconfig(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    assert block("日本", 100, TEXT).width == 100 and len(caplog.records) == 1
