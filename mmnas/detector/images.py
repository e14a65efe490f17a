"""Image files of any common kind, decoded to the pixels that the detector reads.

As OpenCV does for the published features: turned upright by EXIF, gray and palettes to color, transparency left
out, 16 bits cut to 8. Of an animation, the first picture is taken.
"""

import glob
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from mmnas.errors import DataError
from mmnas.files import PathLike, open_regular
from mmnas.schema import shown

MAX_PIXELS = 100_000_000
ENDINGS = frozenset(".jpg .jpeg .jpe .png .bmp .gif .tif .tiff .webp .ppm .pgm .mpo".split())
# No other reader of Pillow's is ever called: some start programs, such as Ghostscript. JPEG includes MPO.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")


def find_images(sources: Sequence[PathLike], same_names: bool = False) -> list[Path]:
    """Return the image files that names, globs and folders (searched to the bottom) stand for, each once, in order.

    Raises DataError for a source without images, and, unless `same_names`, for two images of one name, whose
    features would get the same name.
    """
    found: dict[str, Path] = {}
    for source in sources:
        paths = _files(Path(source))
        if not paths:
            raise DataError(f"no images in {source}; name image files, folders of them or a pattern in quotes")
        for path in paths:
            other = found.setdefault(os.path.realpath(path) if same_names else path.name, path)
            if os.path.realpath(other) != os.path.realpath(path):
                raise DataError(f"{other} and {path} have one name, and so would their features; use two folders")
    return list(found.values())


def _files(source: Path) -> list[Path]:
    try:
        if os.path.isdir(source):
            found = (path for path in source.rglob("*") if path.suffix.lower() in ENDINGS)
        elif os.path.lexists(source) or not glob.has_magic(str(source)):
            return [source]  # a missing file is listed with those that cannot be read
        else:  # unlike `glob.glob`, this follows no links to folders, which may lead back
            start = next(number for number, part in enumerate(source.parts) if glob.has_magic(part))
            found = Path(*source.parts[:start]).glob("/".join(source.parts[start:]))
        return sorted(path for path in found if not os.path.isdir(path) and not path.name.startswith("."))
    except ValueError as exception:
        raise DataError(f"{source} is not a pattern ({exception})") from None


def file_of(folder: Path, image: Path) -> Path | None:
    """Return the `<image file>.npz` or `<stem>.npz` of an image in a folder; `DataError` where both are there."""
    names = [image.name, image.stem][: 2 if image.suffix.lower() in ENDINGS else 1]
    found = [path for name in names if (path := folder / f"{name}.npz").is_file()]
    if len(found) > 1:
        raise DataError(f"{image} has the files {found[0]} and {found[1]}: leave one of the two out")
    return found[0] if found else None


def read_image(path: PathLike, file: BinaryIO | None = None) -> np.ndarray:
    """Return an image as (height, width, 3) uint8, blue first; with `file`, that is read, and `path` names it.

    Raises DataError, with the reason in one line, for a file that is no image of a known kind, is damaged, or has
    more than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is decided here
            with file or open_regular(path) as source, Image.open(source, formats=_FORMATS) as image:
                return pixels_of(image)
    except DataError as exception:
        raise DataError(f"{path}: {exception}") from None
    except Exception as exception:  # Pillow raises many kinds for damaged bytes
        raise DataError(f"{path}: {_reason(exception)}") from None


def pixels_of(image: Image.Image) -> np.ndarray:
    """Return an open image as (height, width, 3) uint8, blue first. Raises DataError if it has too many pixels."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{width} x {height} pixels are more than {MAX_PIXELS}; reduce the image")
    pixels = np.asarray(_in_color(ImageOps.exif_transpose(image)))  # (height, width, 3), red first
    return np.ascontiguousarray(pixels[..., ::-1])


def _reason(exception: Exception) -> str:
    if isinstance(exception, Image.UnidentifiedImageError):
        return f"no image in one of the formats {', '.join(_FORMATS)}, or damaged"
    if isinstance(exception, OSError) and exception.strerror:
        return exception.strerror
    return f"cannot be decoded: {shown(str(exception) or type(exception).__name__)[1:-1]}"


def _in_color(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("its pixels are fractions, whose black and white are unknown; save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError("its pixels have 32 bits; save it with 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert("RGB")
