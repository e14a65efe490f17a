"""Answer normalisation of VQA, in the form of the metric and in the form of the answer vocabulary.

The rules are those of the VQA evaluation (Antol et al., "VQA: Visual Question Answering", ICCV 2015):
punctuation, number words, articles, contractions. Its oddities decide which answers count as equal, and
so are kept; each is named where it stands.
"""

import functools
import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # neither the apostrophe nor the colon: "o'clock", "11:30"
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# Any full stop with no digit after it: "3." and "u.s." lose theirs, "3.5" and ".5" keep them.
_PERIOD = re.compile(r"\.(?!\d)")
# The evaluation passes re.UNICODE, which is 32, where the largest number of replacements belongs.
_MAX_PERIODS = 32

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}

# The stems that each ending makes a contraction with. "its", "lets", "shes", "id" and "im" stay as they
# are: the evaluation has no rule that could apply to them.
_CONTRACTIONS = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "n't've": "could had might should would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'d've": "he it she somebody someone something there they we who y'all you",
    "'ll": "how it somebody someone something they what who why y'all you",
    "'s": "he how somebody someone that there what when where who why",
    "'re": "there they what why you",
    "": "'ow's'at 'twas ma'am o'clock y'all",
}


def _without_one_apostrophe(word: str) -> list[str]:
    """Every spelling of `word` that lacks exactly one of its apostrophes."""
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


_CONTRACTED = {
    misspelt: stem + ending
    for ending, stems in _CONTRACTIONS.items()
    for stem in stems.split()
    for misspelt in _without_one_apostrophe(stem + ending)
} | {"somebody'd": "somebodyd"}  # the evaluation has this one pair the wrong way round


def trim(text: str) -> str:
    """Return `text` without white space at its ends, line breaks and tabs made spaces."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(maxsize=1 << 18)
def normalize_punctuation(text: str) -> str:
    """Return `text` without punctuation: the step by which the published metric treats the annotators.

    Whether a mark vanishes or becomes a space is decided for the whole text: it vanishes everywhere if it
    touches a space anywhere, or if the text holds a number like "1,000".
    """
    result = text
    holds_thousands = _DIGIT_COMMA_DIGIT.search(text) is not None
    for mark in _PUNCTUATION:
        vanishes = holds_thousands or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if vanishes else " ")
    return _PERIOD.sub("", result, count=_MAX_PERIODS)


def _normalize_words(text: str) -> str:
    """Lower-case, write number words as digits, drop articles, restore lost apostrophes."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTED.get(word, word) for word in words if word not in _ARTICLES)


@functools.lru_cache(maxsize=1 << 18)
def normalize_for_metric(text: str) -> str:
    """Return the form in which the VQA evaluation compares answers."""
    return _normalize_words(normalize_punctuation(trim(text)))


@functools.lru_cache(maxsize=1 << 18)
def normalize_for_vocabulary(text: str) -> str:
    """Return the form in which an answer enters the answer vocabulary and the soft targets.

    Not trimmed first, unlike the metric's: "left-right- " gives "leftright", there "left right".
    """
    return _normalize_words(normalize_punctuation(text))
