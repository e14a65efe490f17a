"""Answer normalization of VQA, as the metric does it and as the answer vocabulary does it.

The rules are those of the VQA evaluation (Antol et al., "VQA: Visual Question Answering", ICCV 2015):
punctuation, number words, articles, contractions. Its oddities decide which answers count as equal, so they
are reproduced; each one is marked.
"""

import functools
import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # neither the apostrophe nor the colon: "o'clock", "11:30"
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# A period without a digit after it: "3." and "u.s." lose theirs, "3.5" and ".5" keep them.
_PERIOD = re.compile(r"\.(?!\d)")
# The evaluation passes re.UNICODE, which is 32, as the maximum number of replacements.
_MAX_PERIODS = 32

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}

# Each ending and the stems that it forms contractions with. "its", "lets", "shes", "id" and "im" stay as they
# are: the evaluation has no rule for them.
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
    """Return every spelling of `word` that lacks one of its apostrophes."""
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


_CONTRACTED = {
    misspelled: stem + ending
    for ending, stems in _CONTRACTIONS.items()
    for stem in stems.split()
    for misspelled in _without_one_apostrophe(stem + ending)
} | {"somebody'd": "somebodyd"}  # the evaluation has this pair the wrong way round


def trim(text: str) -> str:
    """Return `text` without white space at its ends, with line breaks and tabs replaced by spaces."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(maxsize=1 << 18)
def normalize_punctuation(text: str) -> str:
    """Return `text` without punctuation: the only step that the metric applies to the annotators' answers.

    A mark is either removed or replaced by a space in the whole text: it is removed if it touches a space
    anywhere, or if the text holds a number like "1,000".
    """
    result = text
    holds_thousands = _DIGIT_COMMA_DIGIT.search(text) is not None
    for mark in _PUNCTUATION:
        vanishes = holds_thousands or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if vanishes else " ")
    return _PERIOD.sub("", result, count=_MAX_PERIODS)


def _normalize_words(text: str) -> str:
    """Convert to lower case, number words to digits; drop articles, restore lost apostrophes."""
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
