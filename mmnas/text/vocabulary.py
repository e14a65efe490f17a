"""The vocabulary: the words that have an embedding, and text as their ids.

Ids 0, 1, 2 are padding, the unknown word and the class token; words follow in order of first appearance.
A run builds its vocabulary once and stores it in the checkpoint, so that no changed file shifts an id.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from mmnas.errors import ConfigError

PAD_ID, UNK_ID, CLS_ID = 0, 1, 2
SPECIAL_WORDS = ("PAD", "UNK", "CLS")


@dataclass(frozen=True, init=False)
class Vocabulary:
    """Distinct words, starting with PAD, UNK, CLS; a word's id is its place.

    Raises ConfigError when `words` start otherwise, repeat a word or hold something else than strings.
    """

    words: tuple[str, ...]
    _ids: dict[str, int] = field(repr=False, compare=False)

    PAD_ID: ClassVar[int] = PAD_ID
    UNK_ID: ClassVar[int] = UNK_ID
    CLS_ID: ClassVar[int] = CLS_ID

    def __init__(self, words: Sequence[str]) -> None:
        words = tuple(words)
        _check(words)
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "_ids", {word: index for index, word in enumerate(words)})

    @classmethod
    def from_token_lists(cls, token_lists: Iterable[Iterable[str]]) -> "Vocabulary":
        """Return the vocabulary of all tokens in order of first appearance."""
        tokens = itertools.chain.from_iterable(token_lists)
        return cls(tuple(dict.fromkeys(itertools.chain(SPECIAL_WORDS, tokens))))

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def encode(self, tokens: Sequence[str], max_tokens: int) -> list[int]:
        """Return the ids of the first `max_tokens` tokens, unknown ones as UNK_ID; never an empty list.

        A text without tokens becomes [UNK_ID]: attention needs one valid position per row, and a batch
        trimmed to its own longest text then computes what a padded one does.
        """
        return [self._ids.get(token, UNK_ID) for token in tokens[:max_tokens]] or [UNK_ID]


def _check(words: tuple[str, ...]) -> None:
    """Raise ConfigError that names what no vocabulary of this package holds."""
    remedy = "the checkpoint that stores this vocabulary is damaged or of another program"
    if words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
        start = ", ".join(map(repr, words[: len(SPECIAL_WORDS)])) or "nothing"
        raise ConfigError(f"vocabulary must start with PAD, UNK, CLS, not with {start}: {remedy}")
    seen = set()
    for index, word in enumerate(words):
        if not isinstance(word, str):
            raise ConfigError(f"vocabulary entry {index} is {word!r}, not a word: {remedy}")
        if word in seen:
            raise ConfigError(f"vocabulary entry {index} repeats {word!r}: {remedy}")
        seen.add(word)
