"""Word vectors: what spaCy's English pipeline gives for a word, out of a local 300-d GloVe table.

The published models start their embedding from spaCy's `en_vectors_web_lg` 2.1.0 (GloVe Common Crawl,
840 B tokens). A word's vector is the mean over the tokens that spaCy's English tokeniser makes of it
("dont" -> "do", "nt"), zeros for a token that the table lacks. Tables hold a million words and more, so
only the needed ones are read.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import re
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence, Set
from pathlib import Path

import numpy as np

from mmnas.errors import DataError
from mmnas.files import PathLike, read_json, replacing

WIDTH = 300
PUBLISHED = "en_vectors_web_lg"
_UNDER_DATA_ROOT = (f"{PUBLISHED}*", "word_vectors", "glove.840B.300d.txt", "glove.840B.300d.zip")
_ARCHIVE = f"https://github.com/explosion/spacy-models/releases/download/{PUBLISHED}-2.1.0/{PUBLISHED}-2.1.0.tar.gz"

_WIDER = re.compile(rb"[^ ]* -?[\d.]*\d(e[-+]?\d+)? ")  # a GloVe line whose second field is a number

logger = logging.getLogger(__name__)


class SpacyVectors:
    """The vectors of a spaCy package or directory, in the layout of spaCy 2 or 3, read where they lie.

    `spacy.load` is no way in: it refuses the metadata of 2.x packages and copies the table into memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        vocab = _vocab_directory(path)
        self.files = (vocab / "vectors", vocab / "key2row")  # what the cache takes for the table's identity
        settings = vocab / "vectors.cfg"
        if settings.exists() and read_json(settings, "spaCy vector settings").get("mode") == "floret":
            raise DataError(f"word vectors in floret mode hold no words: {vocab}: take {PUBLISHED} or GloVe")
        try:
            self.rows = np.lib.format.open_memmap(self.files[0], mode="r")
        except (OSError, ValueError) as exception:
            raise DataError(f"word vectors are damaged: {self.files[0]}: {exception}") from None
        if self.rows.shape[1:] != (WIDTH,):
            raise DataError(f"word vectors must be (words, {WIDTH}), not {self.rows.shape}: {self.files[0]}")

    def lookup(self, tokens: Set[str]) -> dict[str, np.ndarray]:
        """Return the vectors of those `tokens` that the table holds; DataError when its index is damaged."""
        import srsly
        from spacy.strings import get_string_id

        try:
            row_of = srsly.read_msgpack(self.files[1])
            found = {token: row_of.get(get_string_id(token)) for token in tokens}
            found = {token: row for token, row in found.items() if row is not None}
            return {token: np.array(self.rows[row], dtype=np.float32) for token, row in found.items()}
        except (OSError, ValueError, TypeError, AttributeError, IndexError) as exception:
            raise DataError(f"word vectors are damaged: {self.files[1]}: {exception}") from None


class GloveText:
    """A GloVe text file, plain or zipped: a line is a token and its 300 numbers, separated by spaces."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = (path,)

    def lookup(self, tokens: Set[str]) -> dict[str, np.ndarray]:
        """Return the vectors of those `tokens` that the file holds; it is read until all are found.

        Raises DataError that names the first line that is too short, too wide or not numeric.
        """
        wanted = {token.encode(): token for token in tokens}
        found: dict[str, np.ndarray] = {}
        with _lines(self.path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    token, vector = _parse(line.rstrip(), wanted)
                except ValueError as exception:
                    raise DataError(f"word vectors: {self.path}, line {number}: {exception}") from None
                if vector is not None and token in wanted:
                    found[wanted.pop(token)] = vector
                    if not wanted:
                        break
        return found


def _parse(line: bytes, wanted: Container[bytes]) -> tuple[bytes, np.ndarray | None]:
    """Return token and vector of a GloVe line, without the vector when the token cannot be wanted.

    Raises ValueError for a wrong width or something not numeric. A few tokens of GloVe 840B hold spaces
    (". . ."): the vector is the last 300 fields, and a wider line has a number where such a token goes on.
    """
    spaces = line.count(b" ")
    if spaces < WIDTH or (spaces > WIDTH and _WIDER.match(line)):
        raise ValueError(f"{spaces} numbers where {WIDTH} belong: take glove.840B.300d, or download it anew")
    head = line[: line.index(b" ")]
    if head not in wanted:
        return head, None
    token, *numbers = line.rsplit(b" ", WIDTH)
    return token, np.array(numbers, dtype=np.float32)


@contextlib.contextmanager
def _lines(path: Path) -> Iterator[Iterable[bytes]]:
    """Give the lines of a GloVe `.txt` or `.zip`; a failure to read them becomes a DataError."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(_text_member(archive)) as member:
                yield io.BufferedReader(member, 1 << 20)
        else:
            with open(path, "rb") as file:
                yield file
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as exception:
        raise DataError(f"word vectors cannot be read: {path}: {exception}: download it anew") from None


def _text_member(archive: zipfile.ZipFile) -> str:
    """Return the name of the 300-d text file in a zip as GloVe is distributed (6B holds four widths)."""
    names = [name for name in archive.namelist() if name.endswith(".txt")]
    if not names:
        raise DataError(f"word vectors: {archive.filename} holds no .txt file: download it anew")
    return min(names, key=lambda name: f".{WIDTH}d." not in name)


VectorSource = SpacyVectors | GloveText


def word_vectors(
    words: Sequence[str],
    source: PathLike | None = None,
    cache_dir: PathLike | None = None,
    search: PathLike | None = None,
) -> np.ndarray:
    """Return the vectors of `words`, float32 (len(words), 300).

    `source` is an installed spaCy package, a spaCy directory, or a GloVe `.txt` or `.zip`. Without it come,
    in this order: the installed en_vectors_web_lg, another installed English spaCy package with 300-d
    vectors, and what lies in the data root `search`. `cache_dir` keeps the result for the next run.
    Raises DataError when no source is found, or one is damaged or of another width.
    """
    table = _find_source(search) if source is None else _open_source(source)
    vectors = _mean_vectors(words, table) if cache_dir is None else _cached(cache_dir, words, table)
    missing = len(words) - np.count_nonzero(vectors.any(axis=1))
    logger.info("word vectors from %s: %d of %d words have none (all zero)", table.path, missing, len(words))
    return vectors


def _find_source(search: PathLike | None) -> VectorSource:
    """Return the first source in the order of preference, or raise DataError that says how to get one."""
    if published := _package_directory(PUBLISHED):
        return SpacyVectors(published)
    if others := _other_packages():
        return max(others, key=lambda table: len(table.rows))
    for pattern in _UNDER_DATA_ROOT:
        for path in sorted(Path(search).glob(pattern)) if search is not None else ():
            if path.is_dir() or path.suffix in (".txt", ".zip"):
                return _open_source(path)
    raise DataError(
        f"no word vectors of width {WIDTH} found, neither installed nor in {search or 'a data root'}: "
        f"pip install {_ARCHIVE}, or put glove.840B.300d.zip (https://nlp.stanford.edu/projects/glove) "
        "into the data root, or give --WORD_VECTORS=PATH"
    )


def _open_source(source: PathLike) -> VectorSource:
    """Return the source that the user named; a path that exists wins over a package of that name."""
    path = Path(source)
    if path.is_dir():
        return SpacyVectors(path)
    if path.is_file() and path.suffix in (".txt", ".zip"):
        return GloveText(path)
    if package := _package_directory(str(source)):
        return SpacyVectors(package)
    raise DataError(f"word vectors: {source} is no installed package, folder, .txt or .zip: check the path")


def _package_directory(name: str) -> Path | None:
    """Return the directory of an installed package, without importing it."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _other_packages() -> list[SpacyVectors]:
    """Return the vectors of every installed English spaCy package that has some of the right width."""
    tables = []
    for name in sorted({entry.module for entry in importlib.metadata.entry_points(group="spacy_models")}):
        if name.startswith("en_") and (package := _package_directory(name)):
            with contextlib.suppress(DataError):  # the small packages have none, which is no fault here
                tables.append(SpacyVectors(package))
    return tables


def _vocab_directory(path: Path) -> Path:
    """Return the `vocab` folder in a spaCy directory, its package, or the unpacked archive of the package."""
    for pattern in ("vocab", "*/vocab", "*/*/vocab"):
        found = sorted(vocab for vocab in path.glob(pattern) if (vocab / "vectors").exists())
        if len(found) > 1:
            raise DataError(f"word vectors: {path} holds several: name one of {', '.join(map(str, found))}")
        if found and (found[0] / "key2row").exists():
            return found[0]
    raise DataError(f"word vectors: {path} has no vocab/vectors with vocab/key2row: check the path")


def _mean_vectors(words: Sequence[str], table: VectorSource) -> np.ndarray:
    """Return the mean over each word's spaCy tokens, float32 (len(words), 300)."""
    import spacy

    tokenizer = spacy.blank("en").tokenizer
    tokens_of = [[token.text for token in tokenizer(word)] for word in words]
    found = table.lookup({token for tokens in tokens_of for token in tokens})
    vectors = np.zeros((len(words), WIDTH), dtype=np.float32)
    for row, tokens in zip(vectors, tokens_of, strict=True):
        known = [found[token] for token in tokens if token in found]
        row[:] = np.sum(known, axis=0) / max(len(tokens), 1)
    if not np.isfinite(vectors).all():
        raise DataError(f"word vectors are damaged: {table.path} holds numbers that are not finite")
    return vectors


def _fingerprint(words: Sequence[str], table: VectorSource) -> str:
    """Return a hash of all that decides the vectors: the words, the tokeniser's release and the table."""
    state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in table.files]
    parts = [list(words), importlib.metadata.version("spacy"), state]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _cached(cache_dir: PathLike, words: Sequence[str], table: VectorSource) -> np.ndarray:
    """Return the vectors kept in `cache_dir`, after making their file when it is missing or damaged."""
    path = Path(cache_dir) / f"word_vectors-{_fingerprint(words, table)}.npz"
    if path.exists():
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return archive["vectors"]
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as exception:
            logger.warning("word vector cache is damaged and made anew: %s: %s", path, exception)
    vectors = _mean_vectors(words, table)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, vectors=vectors)
    return vectors
