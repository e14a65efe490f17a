"""What `check-data` reports: sections as they are found, then every warning and fault, then a verdict."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from mmnas.config import Config
from mmnas.data.features import Regions, RegionSource
from mmnas.data.samples import normalized, require_images
from mmnas.errors import MMNasError, one_line, safe
from mmnas.text.vocabulary import Vocabulary
from mmnas.text.word_vectors import count_missing, count_shared, word_vectors

SAMPLED = 32
"""Images that are read unless all are asked for."""


class Report:
    """Writes lines at once and keeps warnings and faults, each once, for the end."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._shown: set[Path] = set()
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def line(self, text: str) -> None:
        """Write a line."""
        self._write(safe(text))

    def title(self, text: str) -> None:
        """Begin a section."""
        self.line("")
        self.line(text)

    def problem(self, text: str, needed: bool = True) -> None:
        """Note a fault, or a warning where training does not need what is missing."""
        kept = self.faults if needed else self.warnings
        if text not in kept:
            kept.append(text)

    @contextlib.contextmanager
    def catching(self, needed: bool = True) -> Iterator[None]:
        """Note an error as a problem and continue after the `with`."""
        try:
            yield
        except (MMNasError, OSError) as exception:
            self.problem(one_line(exception), needed)

    def file(self, path: Path) -> bool:
        """Show, once, whether a file or folder exists; return it."""
        found = path.exists()
        if path not in self._shown:
            self._shown.add(path)
            self.line(f"  {'found' if found else 'missing':<8} {path}")
        return found

    def count(self, what: str, found: int, published: int | None = None) -> None:
        """Show a count; one that differs from the `published` one is a warning."""
        self.line(f"  {found} {what}" + ("" if published is None else f" (published: {published})"))
        if published not in (None, found):
            self.problem(f"{found} {what}, published {published}: truncated, or from another release?", False)

    def percentage(self, what: str, found: int, total: int) -> None:
        """Show `found` as a percentage of `total`."""
        self.line(f"  {found} of {total} {what} ({100 * found / max(total, 1):.2f} %)")

    def words(self, token_lists: Iterable[Iterable[str]], config: Config) -> None:
        """Show the size of the vocabulary of some texts, and how many of its words have no word vector."""
        words, paths = Vocabulary.from_token_lists(token_lists).words, config.paths
        self.count("words in the vocabulary", len(words))
        with self.catching():
            vectors = word_vectors(words, paths.word_vectors, config.files.cache, search=paths.data)
            if vectors is not None:
                self.percentage("words without a vector", *count_missing(words, vectors))
                self.percentage("words that share their vector with another", count_shared(vectors), len(words))

    def features(
        self,
        source: RegionSource,
        images: Mapping[str, Iterable[int]],
        needed: Collection[str],
        full: bool,
        usual: tuple[int, int] | None,
        inspect: Callable[[int, Regions], object] = lambda image_id, image: None,
    ) -> None:
        """Show each split's images without features; inspect some images, evenly spread, or all.

        Images without features are a fault in the splits `needed`, elsewhere a warning, as are numbers of
        regions outside of `usual`, fewest and most, if given.
        """
        self.line(f"  in {source.describe()}")
        found: set[int] = set()
        for split, image_ids in images.items():
            expected = set(image_ids)
            present = {image_id for image_id in expected if image_id in source}
            found |= present
            missing = len(expected) - len(present)
            self.count(f"images of {split}, {missing} without features", len(expected))
            with self.catching(split in needed):
                require_images(source, expected, split)
        chosen = sorted(found) if full else sorted(found)[:: max(1, -(-len(found) // SAMPLED))]
        regions, normal = [], list[str]()
        for image_id in tqdm(chosen, desc="features", unit=" images", disable=not full):
            with self.catching():
                image = source[image_id]
                regions.append(len(image.boxes))
                normal.extend(filter(None, [normalized(image, image_id)]))
                inspect(image_id, image)
        self.count(f"of {len(found)} images read, {len(chosen) - len(regions)} damaged", len(chosen))
        for odd in normal[:1]:
            self.problem(f"{odd}; so do those of {len(normal) - 1} others of the images read", needed=False)
        if regions:
            fewest, most = min(regions), max(regions)
            self.line(f"  {fewest} to {most} regions, mean {sum(regions) / len(regions):.1f}")
            if usual and not usual[0] <= fewest <= most <= usual[1]:
                published = " to ".join(map(str, dict.fromkeys(usual)))
                self.problem(f"images have {fewest} to {most} regions, the published ones {published}", False)

    def verdict(self) -> bool:
        """Write warnings, faults and the verdict; return whether there is no fault."""
        self.line("")
        for kind, texts in (("warning", self.warnings), ("fault", self.faults)):
            for text in texts:
                self.line(f"{kind}: {text}")
        counts = f"{_count(self.faults, 'fault')}, {_count(self.warnings, 'warning')}"
        self.line(f"verdict: {'NOT ready' if self.faults else 'ready'} to train: {counts}")
        return not self.faults


def _count(texts: list[str], kind: str) -> str:
    return f"{len(texts) or 'no'} {kind}{'' if len(texts) == 1 else 's'}"
