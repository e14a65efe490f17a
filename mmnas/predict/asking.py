"""What `mmnas predict` asks a model, and what it writes: JSON lines, pictures, rankings, attention."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from PIL import Image

from mmnas.detector.images import read_image
from mmnas.errors import ConfigError, DataError, one_line
from mmnas.files import read_utf8, repeated_key, replacing
from mmnas.predict import pictures
from mmnas.predict.attention import attentions
from mmnas.predict.loaded import LoadedModel
from mmnas.predict.outputs import READERS
from mmnas.predict.predictions import Failure, Match, Prediction
from mmnas.schema import Text, describe_misfit, shown

Pair = tuple[str, str]
"""An image file and a text."""


class _Line(Struct, forbid_unknown_fields=True):
    image: Annotated[Text, Meta(min_length=1)]
    question: Text | None = None
    expression: Text | None = None
    caption: Text | None = None


def read_pairs(path: Path, key: str) -> list[Pair]:
    """Return the pairs of a file with one JSON object per line, such as {"image": ..., "question": ...}.

    Images are relative to the file. Raises `DataError` naming the line that cannot be read.
    """
    pairs = []
    for number, line in enumerate(read_utf8(path, "--input file").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            asked = msgspec.json.decode(line, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError) as exception:
            raise DataError(f"{path}, line {number}: {describe_misfit(exception)}") from None
        if (text := getattr(asked, key)) is None:
            raise DataError(f'{path}, line {number}: no "{key}", which this checkpoint reads')
        if (twice := repeated_key(line)) is not None:
            raise DataError(f"{path}, line {number}: holds the key {shown(twice)} twice: remove one")
        pairs.append((str(path.parent / asked.image), text))
    if not pairs:
        raise DataError(f"{path} holds no pairs")
    return pairs


@dataclass
class Writer:
    """Prints what a model says as JSON lines, and draws it into the folder `out`, if there is one."""

    out: Path | None = None
    regions: bool = False
    block: str | None = None
    failures: list[Failure] = field(default_factory=list)

    def add(self, number: int, result: Prediction | Failure) -> None:
        """Write one result, the `number`th, or keep the failure for the end."""
        if isinstance(result, Failure):
            self.failures.append(result)
            return
        self.say({**result.record(), **({"regions": result.region_records()} if self.regions else {})})
        if self.out is not None:
            self.save(result.draw(self.image_of(result.image)), result.image, f"-{number}")
            self._keep_attention(result, f"-{number}")

    def say(self, record: dict[str, Any]) -> None:
        """Print one line."""
        text = json.dumps(record, ensure_ascii=False)
        print(text if text.isprintable() else json.dumps(record), flush=True)  # noqa: T201 it is the output

    def save(self, picture: Image.Image, name: str, ending: str) -> None:
        """Write a picture that is called after an image or a text."""
        path = self._path(name, f"{ending}.png")
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")

    def image_of(self, name: str) -> Image.Image | None:
        """Return the image of a file, upright and in color; None for features, and for one that cannot be read."""
        if name.endswith(".npz"):
            return None
        try:
            return Image.fromarray(read_image(Path(name))[..., ::-1])
        except (DataError, OSError) as exception:
            failure = Failure(name, "its picture", one_line(exception).removeprefix(f"{name}: "))
            self.failures += [] if failure in self.failures else [failure]
            return None

    def _path(self, name: str, ending: str) -> Path:
        assert self.out is not None
        return self.out / (re.sub(r"\W+", "-", Path(name).stem)[:60].strip("-") + ending)

    def _keep_attention(self, result: Prediction, ending: str) -> None:
        if not result.attention:
            return
        path = self._path(result.image, f"{ending}.npz")
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, words=result.words, boxes=result.regions.boxes, **result.attention)  # type: ignore[arg-type]
        if self.block is not None:
            self.save(draw_block(result, self.block), result.image, f"{ending}-{self.block}")


def draw_block(result: Prediction, block: str) -> Image.Image:
    """Draw the attention of one block."""
    weights = result.attention[block]
    names = {len(result.words): list(result.words)}
    rows, columns = (names.get(count) or [str(number) for number in range(count)] for count in weights.shape[1:])
    return pictures.draw_attention(weights, f"{block}: {result.text}", rows, columns)


def ask(model: LoadedModel, pairs: Iterable[Pair], writer: Writer, top: int, attention: bool) -> None:
    """Write what the model says about each pair. Raises `ConfigError` where the block to draw has no attention."""
    if writer.block is not None and writer.block not in (blocks := attentions(model.model)):
        raise ConfigError(f"--block={writer.block} has no attention; those with some: {', '.join(blocks)}")
    for number, result in enumerate(model.predict_each(pairs, top, attention), start=1):
        writer.add(number, result)


def rank(model: LoadedModel, images: Sequence[str], captions: Sequence[str], writer: Writer, top: int) -> None:
    """Write the best captions of each image, then the best images of each caption."""
    found: list[Match] = []
    for result in model.predict_each((image, caption) for image in images for caption in captions):
        if isinstance(result, Failure):
            writer.failures.append(result)
        elif isinstance(result, Match):
            found.append(result)
    for number, (image, best) in enumerate(_ranked(found, images, "image", top), start=1):
        writer.say({"image": image, "captions": [{"caption": one.text, "score": one.score} for one in best]})
        if writer.out is not None:
            shown, scored = writer.image_of(image) or (320, 240), [(one.text, one.score) for one in best]
            writer.save(pictures.draw_captions(shown, image, scored), image, f"-{number}")
    for number, (caption, best) in enumerate(_ranked(found, captions, "text", top), start=1):
        writer.say({"caption": caption, "images": [{"image": one.image, "score": one.score} for one in best]})
        if writer.out is not None:
            cells = [(writer.image_of(one.image), Path(one.image).name, one.score) for one in best]
            writer.save(pictures.draw_images(caption, cells), caption, f"-images-{number}")


def _ranked(found: list[Match], names: Sequence[str], key: str, top: int) -> Iterator[tuple[str, list[Match]]]:
    for name in dict.fromkeys(names):
        own = sorted((one for one in found if getattr(one, key) == name), key=lambda one: -one.score)
        if own:
            yield name, own[:top]


def text_key(model: LoadedModel) -> str:
    """Return what the texts of a model's task are called: question, expression or caption."""
    return READERS[model.task.name][0].key
