"""The report of a check: sections as they are found, then every warning and fault, then a verdict."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from mmnas.config import Config
from mmnas.errors import MMNasError, one_line
from mmnas.text.word_vectors import word_vectors


class Report:
    """Writes lines at once and keeps warnings and faults, each once, for the end."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.line = write
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def title(self, text: str) -> None:
        """Begin a section."""
        self.line(f"\n{text}")

    def problem(self, text: str, needed: bool = True) -> None:
        """Note a fault, or a warning where training does without."""
        kept = self.faults if needed else self.warnings
        if text not in kept:
            kept.append(text)

    @contextlib.contextmanager
    def going_on(self, needed: bool = True) -> Iterator[None]:
        """Note an error as a problem and go on behind the `with`."""
        try:
            yield
        except (MMNasError, OSError) as exception:
            self.problem(one_line(exception), needed)

    def file(self, path: Path) -> bool:
        """Show one entry of the expected tree; return whether it is there."""
        found = path.exists()
        self.line(f"  {'found' if found else 'missing':<8} {path}")
        return found

    def count(self, what: str, found: int, known: int | None = None) -> None:
        """Show a count; one that differs from the `known` one is a warning."""
        beside = "" if known is None else f" (published: {known})"
        self.line(f"  {found} {what}{beside}")
        if known not in (None, found):
            self.problem(f"{found} {what}, published {known}: is a file cut, or of another release?", False)

    def share(self, what: str, found: int, total: int) -> None:
        """Show what part of `total` is something to know of."""
        self.line(f"  {found} of {total} {what} ({100 * found / total:.2f} %)")

    def words(self, words: list[str], config: Config) -> None:
        """Show the size of the vocabulary, and how much of it has a word vector."""
        paths = config.paths
        self.count("words in the vocabulary", len(words))
        with self.going_on():
            vectors = word_vectors(words, paths.word_vectors, config.files.cache, search=paths.data)
            self.share("words without a vector", int((~vectors.any(axis=1)).sum()), len(words))

    def verdict(self) -> bool:
        """Write warnings, faults and the verdict; return whether there is no fault."""
        self.line("")
        for kind, texts in (("warning", self.warnings), ("fault", self.faults)):
            for text in texts:
                self.line(f"{kind}: {text}")
        counts = f"{_number(self.faults, 'fault')}, {_number(self.warnings, 'warning')}"
        self.line(f"verdict: {'NOT ready' if self.faults else 'ready'} to train: {counts}")
        return not self.faults


def _number(texts: list[str], kind: str) -> str:
    return f"{len(texts) or 'no'} {kind}{'' if len(texts) == 1 else 's'}"
