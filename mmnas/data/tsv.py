"""Region features in `.tsv` files, as the bottom-up-attention and LXMERT authors published them.

A row is an image. Bottom-up attention: image_id, image_w, image_h, num_boxes, boxes, features. LXMERT: img_id,
img_h, img_w, objects_id, objects_conf, attrs_id, attrs_conf, num_boxes, boxes, features. Arrays are base64 of
little-endian numbers: boxes (K, 4) and features (K, D) float32. A `.zip` with such files is read without unpacking.
"""

import base64
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mmnas.data.features import MAX_REGIONS, Regions, check_regions, image_id_of
from mmnas.errors import DataError
from mmnas.files import PathLike, mark_length
from mmnas.schema import shown

_BOTTOM_UP = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
_LXMERT = (
    "image_id", "image_h", "image_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes",
    "boxes", "features",
)  # fmt: skip
_COLUMNS = {len(names): names for names in (_BOTTOM_UP, _LXMERT)}
_LONGEST_ROW = 128 * 2**20  # bytes; 100 regions of 2048 numbers are 1.1 MB
_LARGEST_SIDE = 100_000  # of an image, in pixels


def read_tsv(path: PathLike, feature_size: int | None = None) -> Iterator[tuple[int, Regions]]:
    """Yield image id and regions of each row of a `.tsv` file, or of all in a `.zip`.

    Without `feature_size`, features may be of any width.

    Raises DataError naming file and row for one that is damaged or cut: its base64, its number of boxes, the width
    of its features, or numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"region features not found: {path}; name a .tsv file, or a .zip with one")
    found = False
    for name, file in _files(path):
        for number, row in enumerate(_rows(file, name), start=1):
            found = True
            try:
                image_id, regions = _image(row, feature_size)
            except ValueError as exception:
                raise DataError(f"{name}, row {number}: {exception}; copy the file again") from None
            yield image_id, check_regions(regions, "features", f"{name}, row {number}")
    if not found:
        raise DataError(f"{path} holds no row of region features; copy it again")


def _files(path: Path) -> Iterator[tuple[str, io.BufferedReader]]:
    """Yield the name for messages and the open file of each table."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            yield str(path), file
        return
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".tsv") and "__MACOSX" not in name]
        if not names:
            raise DataError(f"{path} holds no .tsv file")
        for name in names:
            with _damage_named(f"{path}: {shown(name)[1:-1]}"), archive.open(name) as file:
                yield f"{path}: {shown(name)[1:-1]}", io.BufferedReader(file)  # type: ignore[arg-type]


def _rows(file: io.BufferedReader, name: str) -> Iterator[bytes]:
    with _damage_named(name):
        file.read(mark_length(file.peek(4), name))
        while row := file.readline(_LONGEST_ROW + 1):
            if len(row) > _LONGEST_ROW:
                raise DataError(f"{name} holds a row of more than {_LONGEST_ROW} bytes: not a table of features")
            if not row.isspace():
                yield row


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    """Turn what damaged archives raise into a DataError."""
    try:
        yield
    except (DataError, GeneratorExit):
        raise
    except Exception as exception:  # zipfile and zlib raise many kinds for damaged bytes
        raise DataError(f"{name} is damaged or truncated ({type(exception).__name__}); copy it again") from None


def _image(row: bytes, feature_size: int | None) -> tuple[int, Regions]:
    """Return image id and regions of one row. Raises ValueError with the reason."""
    fields = row.rstrip(b"\r\n").split(b"\t")
    if len(fields) not in _COLUMNS:
        expected = " or ".join(map(str, _COLUMNS))
        raise ValueError(f"has {len(fields)} columns, expected {expected}: it may be cut off")
    values = dict(zip(_COLUMNS[len(fields)], fields, strict=True))
    count = _number(values, "num_boxes", MAX_REGIONS)
    size = [_number(values, key, _LARGEST_SIDE) for key in ("image_h", "image_w")]
    boxes, features = _array(values, "boxes", (count, 4)), _array(values, "features", (count, feature_size))
    return _image_id(values["image_id"]), Regions(features, boxes, np.array(size))


def _image_id(field: bytes) -> int:
    """Return the integer of a bare id, or of a name such as COCO_val2014_000000000042."""
    text = field.decode("ascii", "replace")
    image_id = image_id_of(f"{text}.npz")
    if image_id is None:
        raise ValueError(f"the image id {shown(text)} holds no integer")
    return image_id


def _number(values: dict[str, bytes], key: str, most: int) -> int:
    text = values[key]
    if not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise ValueError(f"{key} is {shown(text.decode('ascii', 'replace'))}, expected an integer from 1 to {most}")
    return int(text)


def _array(values: dict[str, bytes], key: str, shape: tuple[int, int | None]) -> np.ndarray:
    try:
        content = base64.b64decode(values[key], validate=True)
    except ValueError:
        raise ValueError(f"{key} is not valid base64") from None
    rows, width = shape[0], shape[1] or max(1, len(content) // (4 * shape[0]))
    if len(content) != 4 * rows * width:
        raise ValueError(f"{key} holds {len(content)} bytes, expected {rows} x {width} float32 numbers")
    return np.frombuffer(content, "<f4").reshape(rows, width)
