"""The tables of word vectors: those of spaCy, in the layout of spaCy 2 or 3, and GloVe text.

Both are read in place, and only the rows that are needed.
"""

import contextlib
import io
import operator
import re
import zipfile
import zlib
from collections.abc import Container, Iterator, Set
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.lib import format as npy

from mmnas.arrays import LONGEST_HEADER, read_array_header
from mmnas.errors import DataError, MMNasError
from mmnas.files import mark_length, open_regular, read_bytes, read_json
from mmnas.schema import shown

WIDTH = 300
LONGEST_LINE = 1 << 16  # bytes; 300 numbers take some three thousand
PUBLISHED = "en_vectors_web_lg"
_WIDER = re.compile(rb"[^ ]* -?[\d.]*\d(e[-+]?\d+)? ")  # a GloVe line whose second field is a number


class SpacyVectors:
    """The vectors of a spaCy package or directory, in the layout of spaCy 2 or 3, read in place.

    `spacy.load` cannot be used: it refuses the metadata of 2.x packages and copies the table into memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        vocab = _vocab_directory(path)
        self.files = (vocab / "vectors", vocab / "key2row")  # identify the table in the cache
        settings = vocab / "vectors.cfg"
        content = read_json(settings, "spaCy vector settings") if settings.exists() else None
        if isinstance(content, dict) and content.get("mode") == "floret":
            raise DataError(f"word vectors in floret mode hold no words: {vocab}: use {PUBLISHED} or GloVe")
        self.rows = _mapped(self.files[0])

    def lookup(self, tokens: Set[str]) -> dict[str, np.ndarray]:
        """Return the vectors of those `tokens` that the table has. Raises DataError when its index is damaged."""
        from spacy.strings import get_string_id

        row_of = self._row_of()
        try:
            found = {token: row_of.get(get_string_id(token)) for token in tokens}
            rows = {token: operator.index(row) for token, row in found.items() if row is not None}
            return {token: np.array(self.rows[row], dtype=np.float32) for token, row in rows.items()}
        except (TypeError, LookupError, OverflowError) as exception:
            raise _damaged(self.files[1], exception) from None

    def count_shared(self) -> int:
        """Return how many words have the row of another word, as in pruned tables."""
        rows = list(self._row_of().values())
        return len(rows) - len(set(map(str, rows)))

    def _row_of(self) -> dict[int, int]:
        import srsly

        try:
            return dict(srsly.msgpack_loads(read_bytes(self.files[1])))
        except Exception as exception:  # msgpack raises many kinds for damaged bytes
            raise _damaged(self.files[1], exception) from None


def _mapped(path: Path) -> np.ndarray:
    """Return the table in an npy file without reading it; its header is checked first, as some crash NumPy."""
    try:
        with open_regular(path) as file:
            start = io.BytesIO(file.read(LONGEST_HEADER))
        shape, _, dtype = read_array_header(start)
        if shape[1:] == (WIDTH,) and dtype.kind == "f":
            return npy.open_memmap(path, mode="r")
    except Exception as exception:  # numpy raises many kinds for a damaged header
        raise _damaged(path, exception) from None
    raise DataError(f"word vectors must be floats (words, {WIDTH}), not {dtype!s:.40} {shown(shape)}: {path}")


def _damaged(path: Path, exception: Exception) -> DataError:
    """Return the error that names a file and repeats the message of its reader."""
    return DataError(f"word vectors are damaged: {path}: {shown(f'{type(exception).__name__}: {exception}')}")


class GloveText:
    """A GloVe text file, plain or zipped: each line is a token and its 300 numbers, separated by spaces."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = (path,)

    def lookup(self, tokens: Set[str]) -> dict[str, np.ndarray]:
        """Return the vectors of those `tokens` that the file has; it is read until all are found.

        Raises DataError naming the first line that is too short, too wide or not numeric.
        """
        wanted = {token.encode(): token for token in tokens}
        found: dict[str, np.ndarray] = {}
        with _lines(self.path) as lines:
            lines.read(mark_length(lines.peek(4), self.path, "file of word vectors"))
            for number, line in enumerate(iter(partial(lines.readline, LONGEST_LINE), b""), 1):
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
    """Return token and vector of a GloVe line, or None for the vector if the token is not wanted.

    Raises ValueError for a wrong width or a field that is not a number. A few tokens of GloVe 840B hold spaces
    (". . ."): the vector is the last 300 fields; in a line that is too wide, a number follows the first word.
    """
    if len(line) == LONGEST_LINE:
        raise ValueError("does not end: use glove.840B.300d, or download it again")
    spaces = line.count(b" ")
    if spaces < WIDTH or (spaces > WIDTH and _WIDER.match(line)):
        raise ValueError(f"{spaces} numbers, expected {WIDTH}: use glove.840B.300d, or download it again")
    head = line[: line.index(b" ")]
    if head not in wanted:
        return head, None
    token, *numbers = line.rsplit(b" ", WIDTH)
    return token, np.array(numbers, dtype=np.float32)


@contextlib.contextmanager
def _lines(path: Path) -> Iterator[io.BufferedReader]:
    """Open a GloVe `.txt` or `.zip`; a failure to read it becomes a DataError."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(_text_member(archive)) as member:
                yield io.BufferedReader(cast(zipfile.ZipExtFile, member), 1 << 20)
        else:
            with open_regular(path) as file:
                yield file
    except MMNasError:
        raise
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as exception:
        reason = shown(str(exception) or type(exception).__name__)[1:-1]
        raise DataError(f"word vectors cannot be read: {path}: {reason}: download it again") from None


def _text_member(archive: zipfile.ZipFile) -> str:
    """Return the name of the 300-d text file in a zip as GloVe is distributed (6B holds four widths)."""
    methods = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    names = [each.filename for each in archive.infolist() if each.compress_type in methods]
    names = [name for name in names if name.endswith(".txt")]
    if not names:
        raise DataError(f"word vectors: {archive.filename} holds no .txt file: download it again")
    return min(names, key=lambda name: f".{WIDTH}d." not in name)


VectorSource = SpacyVectors | GloveText


def _vocab_directory(path: Path) -> Path:
    """Return the `vocab` folder in a spaCy directory, its package, or the unpacked archive of the package."""
    for pattern in ("vocab", "*/vocab", "*/*/vocab"):
        found = sorted(vocab for vocab in path.glob(pattern) if (vocab / "vectors").exists())
        if len(found) > 1:
            raise DataError(f"word vectors: {path} holds several: name one of {', '.join(map(str, found))}")
        if found and (found[0] / "key2row").exists():
            return found[0]
    raise DataError(f"word vectors: {path} has no vocab/vectors with vocab/key2row: check the path")
