import subprocess
import sys

import pytest

from mmnas.text.tokenizer import tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("What color is the man's T-shirt?", ["what", "color", "is", "the", "mans", "t", "shirt"]),
        ("Is it 1/2 full, or (really) empty...!", ["is", "it", "1", "2", "full", "or", "really", "empty"]),
        ('don\'t "quote" * #1: a;b', ["dont", "quote", "1", "ab"]),
        ("  two   spaces\tand\nlines  ", ["two", "spaces", "and", "lines"]),
        ("--/-", []),
        ("", []),
        ("?!", []),
        ("Café ÉTÉ at 5$ & up_there", ["café", "été", "at", "5$", "&", "up_there"]),
    ],
)
def test_words_of_a_text(text, tokens):
    assert tokenize(text) == tokens


def test_every_deleted_and_every_spaced_sign():
    assert tokenize("a.b,c'd!e?f\"g(h)i*j#k:l;m") == ["abcdefghijklm"]
    assert tokenize("a-b/c") == ["a", "b", "c"]


def test_needs_no_spacy():
    code = "import sys, mmnas.text.tokenizer, mmnas.text.word_vectors; sys.exit('spacy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
