import json
from pathlib import Path

import pytest

from mmnas.text.answers import normalize_for_metric, normalize_for_vocabulary, normalize_punctuation, trim

PARITY = json.loads((Path(__file__).parents[1] / "parity" / "vqa_metric.json").read_text(encoding="utf-8"))


def test_every_normalisation_of_the_fixture_in_both_forms():
    cases = PARITY["normalisation"]
    assert len(cases) == 467
    assert [normalize_for_metric(case["text"]) for case in cases] == [case["metric"] for case in cases]
    assert [normalize_for_vocabulary(case["text"]) for case in cases] == [c["vocabulary"] for c in cases]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Zero None one two Three", "0 0 1 2 3"),
        ("four five six seven eight nine ten eleven", "4 5 6 7 8 9 10 eleven"),
        ("A man, an apple and THE dog", "man apple and dog"),
        ("dont wont cant isnt", "don't won't can't isn't"),
        ("couldn'tve couldnt've", "couldn't've couldn't've"),
        ("its lets shes Im Ive", "its lets shes im ive"),
        ("twas maam oclock yall", "'twas ma'am o'clock y'all"),
        ("ow's'at 'ows'at 'ow'sat", "'ow's'at 'ow's'at 'ow's'at"),
        ("somebody'd somebodyd", "somebodyd somebodyd"),
    ],
)
def test_number_words_articles_and_contractions(text, expected):
    assert normalize_for_metric(text) == expected
    assert normalize_for_vocabulary(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("black/white", "black white"),
        ("black/white / grey", "blackwhite  grey"),  # a mark that touches a space once vanishes everywhere
        ("1,000-2,000", "10002000"),  # one number like this takes every mark away
        ("3. 3.5 .5 u.s.", "3 3.5 .5 us"),
        ("11:30 o'clock", "11:30 o'clock"),
    ],
)
def test_punctuation(text, expected):
    assert normalize_punctuation(text) == expected


def test_the_evaluation_removes_no_more_than_32_full_stops():
    assert normalize_punctuation("." * 40) == "." * 8


def test_only_the_metric_trims_before_it_looks_for_marks_beside_spaces():
    assert normalize_for_metric("left-right- ") == "left right"
    assert normalize_for_vocabulary("left-right- ") == "leftright"
    assert normalize_for_metric("left-\tright-top") == "left righttop"
    assert normalize_for_vocabulary("left-\tright-top") == "left right top"


def test_trim_turns_line_breaks_and_tabs_into_spaces():
    assert trim(" a\tb\nc \n") == "a b c"


def test_normalising_for_the_vocabulary_twice_changes_nothing():
    normalised = [case["vocabulary"] for case in PARITY["normalisation"]]
    assert [normalize_for_vocabulary(text) for text in normalised] == normalised
