"""The vocabulary: the words that have an embedding, and texts as their ids.

Ids 0, 1, 2 are padding, the unknown word and the class token; words follow in order of first appearance.
A run builds its vocabulary once and stores it in the checkpoint, so that changed files do not change ids.
"""

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mmnas.errors import ConfigError

log = logging.getLogger(__name__)

PAD_ID, UNK_ID, CLS_ID = 0, 1, 2
SPECIAL_WORDS = ("PAD", "UNK", "CLS")


@dataclass(frozen=True)
class Vocabulary:
    """Distinct words, starting with PAD, UNK, CLS; a word's id is its index.

    Raises ConfigError when `words` start otherwise, repeat a word or hold something other than strings.
    """

    words: Sequence[str]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        remedy = "the checkpoint that stores this vocabulary is damaged or from another program"
        if self.words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            start = ", ".join(map(repr, self.words[: len(SPECIAL_WORDS)])) or "nothing"
            raise ConfigError(f"vocabulary must start with PAD, UNK, CLS, not with {start}: {remedy}")
        for index, word in enumerate(self.words):
            if not isinstance(word, str):
                raise ConfigError(f"vocabulary entry {index} is {word!r}, not a word: {remedy}")
            if self._ids.setdefault(word, index) != index:
                raise ConfigError(f"vocabulary entry {index} repeats {word!r}: {remedy}")

    @classmethod
    def from_token_lists(cls, token_lists: Iterable[Iterable[str]]) -> "Vocabulary":
        """Return the vocabulary of all tokens in order of first appearance."""
        tokens = itertools.chain.from_iterable(token_lists)
        return cls(tuple(dict.fromkeys(itertools.chain(SPECIAL_WORDS, tokens))))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: Sequence[str], max_tokens: int) -> list[int]:
        """Return the ids of the first `max_tokens` tokens, unknown ones as UNK_ID; never an empty list.

        A text without tokens becomes [UNK_ID]: attention needs one valid position per row, and then a batch that
        is only as wide as its longest text gives the same results as a wider one.
        """
        return [self._ids.get(token, UNK_ID) for token in tokens[:max_tokens]] or [UNK_ID]


def warn_missing(what: str, splits: Sequence[str]) -> None:
    """Warn about splits whose texts cannot contribute to the vocabulary."""
    if splits:
        log.warning("no %s of %s: the vocabulary differs from the published one", what, ", ".join(splits))
