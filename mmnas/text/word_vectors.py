"""Word vectors: those that spaCy's English pipeline gives, from a local 300-d GloVe table.

The published models start their embedding from spaCy's `en_vectors_web_lg` 2.1.0 (GloVe Common Crawl,
840 B tokens). A word's vector is the mean over the tokens that spaCy's English tokenizer makes of it
("dont" -> "do", "nt"), with zeros for tokens that the table lacks. Tables hold a million words and more, so
only those needed are read.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmnas.errors import DataError, MissingData
from mmnas.files import PathLike, replacing, writing_cache
from mmnas.text.vector_sources import PUBLISHED, WIDTH, GloveText, SpacyVectors, VectorSource
from mmnas.text.vocabulary import SPECIAL_WORDS

_UNDER_DATA_ROOT = (f"{PUBLISHED}*", "word_vectors", "glove.840B.300d.txt", "glove.840B.300d.zip")
_ARCHIVE = f"https://github.com/explosion/spacy-models/releases/download/{PUBLISHED}-2.1.0/{PUBLISHED}-2.1.0.tar.gz"
WITHOUT = "none"
"""The source that stands for no vectors."""

logger = logging.getLogger(__name__)


def word_vectors(
    words: Sequence[str],
    source: PathLike | None = None,
    cache_dir: PathLike | None = None,
    search: PathLike | None = None,
) -> np.ndarray | None:
    """Return the vectors of `words`, float32 (len(words), 300); None for the source `WITHOUT`.

    `source` is an installed spaCy package, a spaCy directory, or a GloVe `.txt` or `.zip`. Without it, these are
    tried in order: the installed en_vectors_web_lg, another installed English spaCy package that has a 300-d
    vector of its own for each word, and the data root `search`. The result is kept in `cache_dir` for the next
    run. Raises DataError when no source is found, or one is damaged or of another width. Warns when more than a
    tenth of the words share vectors.
    """
    if source == WITHOUT:
        logger.info("no word vectors: the words are learned from the training data alone")
        return None
    table = _find_source(search) if source is None else _open_source(source)
    vectors = _mean_vectors(words, table) if cache_dir is None else _cached(cache_dir, words, table)
    (missing, total), shared = count_missing(words, vectors), count_shared(vectors)
    text = "word vectors from %s: %d of %d words have none (all zero), %d share theirs with another word"
    level = logging.WARNING if shared > len(words) / 10 else logging.INFO
    logger.log(level, text, table.path, missing, total, shared)
    return vectors


def count_missing(words: Sequence[str], vectors: np.ndarray) -> tuple[int, int]:
    """Return how many words have no vector, of how many; PAD, UNK and CLS never have one, and do not count."""
    own = np.array([word not in SPECIAL_WORDS for word in words], bool)
    return int((own & ~vectors.any(axis=1)).sum()), int(own.sum())


def count_shared(vectors: np.ndarray) -> int:
    """Return how many rows (words, 300) also stand in another row, all-zero ones aside."""
    counts = Counter(row.tobytes() for row in vectors if row.any())
    return sum(count for count in counts.values() if count > 1)


def _find_source(search: PathLike | None) -> VectorSource:
    """Return the first source in order of preference. Raises DataError that says how to get one."""
    if published := _package_directory(PUBLISHED):
        return SpacyVectors(published)
    if others := _other_packages():
        return max(others, key=lambda table: len(table.rows))
    for pattern in _UNDER_DATA_ROOT:
        for path in sorted(Path(search).glob(pattern)) if search is not None else ():
            if path.is_dir() or path.suffix in (".txt", ".zip"):
                return _open_source(path)
    raise MissingData(
        f"no word vectors of width {WIDTH} found, neither installed nor in {search or 'a data root'}: "
        f"pip install {_ARCHIVE}, or put glove.840B.300d.zip (https://nlp.stanford.edu/projects/glove) "
        f"into the data root, or give --WORD_VECTORS=PATH, or --WORD_VECTORS={WITHOUT} to learn words without"
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
    raise DataError(f"word vectors: {source} is not an installed package, folder, .txt or .zip: check the path")


def _package_directory(name: str) -> Path | None:
    """Return the directory of an installed package, without importing it."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _other_packages() -> list[SpacyVectors]:
    """Return the vectors of every installed English spaCy package that has 300-d ones, no two words sharing one."""
    tables = []
    for name in sorted({entry.module for entry in importlib.metadata.entry_points(group="spacy_models")}):
        if name.startswith("en_") and (package := _package_directory(name)):
            with contextlib.suppress(DataError):  # the small packages have no vectors
                table = SpacyVectors(package)
                if shared := table.count_shared():
                    text = "word vectors of %s are not used, as %d words share theirs: name them by --WORD_VECTORS"
                    logger.warning(text, name, shared)
                else:
                    tables.append(table)
    return tables


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
    """Return a hash of what determines the vectors: the words, the release of the tokenizer and the table."""
    state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in table.files]
    parts = [list(words), importlib.metadata.version("spacy"), state]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _cached(cache_dir: PathLike, words: Sequence[str], table: VectorSource) -> np.ndarray:
    """Return the vectors from `cache_dir`, computing them first if the file is missing or damaged."""
    path = Path(cache_dir) / f"word_vectors-{_fingerprint(words, table)}.npz"
    if path.exists():
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return archive["vectors"]
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as exception:
            logger.warning("word vector cache is damaged and will be replaced: %s: %s", path, exception)
    vectors = _mean_vectors(words, table)
    with writing_cache(path), replacing(path) as temporary, open(temporary, "wb") as output:
        np.savez(output, vectors=vectors)
    return vectors
