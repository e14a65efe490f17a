"""The genotype: which operations stand in which block (paper section 3.1), and the names they go by.

A genotype file is JSON, `{"epoch<N>": {"enc": [[name, ...], ...], "dec": [...]}}`. A search writes one
entry per epoch, a published architecture has only `epoch0`. The operations of a row add up.
No torch here: `models/operations.py` builds a module for each `OperationSpec`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct

from mmnas.config import MOST_BLOCKS
from mmnas.errors import ConfigError
from mmnas.files import PathLike, read_json, write_json
from mmnas.schema import convert, shown


@dataclass(frozen=True)
class OperationSpec:
    """What a name stands for.

    `family` picks the module class. `size` is the head width of attentions, the kernel of convolutions,
    the expansion of feed-forwards, the depth of gated linear units. `inner_scale` widens an attention's
    inner width to that multiple of H. `reads` names the input beside x that the operation needs.
    """

    family: str
    size: int = 0
    inner_scale: int = 1
    reads: str = ""  # "", "relation" (region geometry) or "memory" (the encoder's output)


def _sizes(family: str, *sizes: int, reads: str = "") -> dict[str, OperationSpec]:
    return {f"{family}_{size}": OperationSpec(family, size, reads=reads) for size in sizes}


OPERATIONS: dict[str, OperationSpec] = {
    **{name: OperationSpec(name) for name in ("none", "skip_connect", "gelu")},
    **_sizes("self_att", 16, 32, 64, 128, 256),
    "self_att_64_2": OperationSpec("self_att", 64, inner_scale=2),
    **_sizes("rel_self_att", 16, 32, 64, 128, 256, reads="relation"),
    "rel_self_att_64_2": OperationSpec("rel_self_att", 64, inner_scale=2, reads="relation"),
    **_sizes("guided_att", 16, 32, 64, 128, 256, reads="memory"),
    "guided_att_64_2": OperationSpec("guided_att", 64, inner_scale=2, reads="memory"),
    **_sizes("uniimg_att", 32, 64, 128, reads="memory"),
    **_sizes("sep_conv", 3, 5, 7, 11),
    **_sizes("std_conv", 3, 5, 7, 11),
    "feed_forward": OperationSpec("feed_forward", 4),
    **_sizes("feed_forward", 2, 8, 16, 32),
    "feed_forward_deep": OperationSpec("feed_forward_deep", 2),
    **_sizes("gated_linear", 1, 2),
}

Row = tuple[str, ...]


class Genotype(Struct, frozen=True, forbid_unknown_fields=True, rename={"encoder": "enc", "decoder": "dec"}):
    """The operations of every encoder and decoder block; checked when made, raises `ConfigError`."""

    encoder: tuple[Row, ...]
    decoder: tuple[Row, ...]

    def __post_init__(self) -> None:
        for stream, rows in (("enc", self.encoder), ("dec", self.decoder)):
            if not 0 < len(rows) <= MOST_BLOCKS:
                raise ConfigError(f"{stream} has {len(rows) or 'no'} blocks; it may have 1 to {MOST_BLOCKS}")
            for block, row in enumerate(rows):
                _check_row(row, stream, f"{stream}[{block}]")

    @property
    def uses_relation(self) -> bool:
        """Whether any block reads the relation features."""
        return any(OPERATIONS[name].reads == "relation" for row in self.decoder for name in row)

    def take(self, path: Sequence[int]) -> "Genotype":
        """Return the genotype of one operation per block: number `path[b]` of row b, encoder rows first."""
        rows = tuple((row[index],) for row, index in zip((*self.encoder, *self.decoder), path, strict=True))
        return Genotype(rows[: len(self.encoder)], rows[len(self.encoder) :])

    def to_dict(self) -> dict[str, list[list[str]]]:
        """Return the JSON form of one entry."""
        return {"enc": [list(row) for row in self.encoder], "dec": [list(row) for row in self.decoder]}

    @classmethod
    def from_dict(cls, entry: Any) -> "Genotype":
        """Read the JSON form of one entry, `{"enc": [[name, ...], ...], "dec": [...]}`."""
        return convert(entry, cls, "genotype")


def search_space(
    encoder_blocks: int, decoder_blocks: int, encoder: Sequence[str], decoder: Sequence[str]
) -> Genotype:
    """Return the genotype whose rows list every candidate; a path through it takes one of each row.

    Raises `ConfigError` for an unknown candidate, or one that cannot stand in its stream.
    """
    return Genotype((tuple(encoder),) * encoder_blocks, (tuple(decoder),) * decoder_blocks)


def _check_row(row: Row, stream: str, path: str) -> None:
    if not row:
        raise ConfigError(f"{path} has no operation; use 'skip_connect' for a block that does nothing")
    if len(row) > len(OPERATIONS):
        raise ConfigError(f"{path} has {len(row)} operations; it may have 1 to {len(OPERATIONS)}")
    for name in row:
        spec = OPERATIONS.get(name)
        if spec is None:
            raise ConfigError(f"{path}: unknown operation {shown(name)}; valid ones: {', '.join(OPERATIONS)}")
        if stream == "enc" and spec.reads:
            raise ConfigError(
                f"{path}: '{name}' reads the {spec.reads}, which only decoder blocks have; "
                "use a self_att, feed_forward, conv or gated_linear operation in the encoder"
            )


def shipped_genotypes() -> dict[str, Path]:
    """Return the genotype files that come with this package, by name: the published ones, MCAN's and the demo's."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("genotypes").glob("*.json"))}


def find_genotype(name: PathLike) -> Path:
    """Return the path of a genotype file: `name` itself if it exists, else the shipped genotype of that name.

    Raises `ConfigError` with the names of the shipped ones.
    """
    shipped = shipped_genotypes()
    if Path(name).is_file():
        return Path(name)
    if str(name) not in shipped:
        raise ConfigError(f"genotype file not found: {name}; shipped ones: {', '.join(shipped)}")
    return shipped[str(name)]


def read_genotypes(path: PathLike) -> dict[int, Genotype]:
    """Return all entries of a genotype file, or of the shipped genotype of that name, by epoch, ascending.

    Raises `ConfigError` naming the file.
    """
    path = find_genotype(path)
    entries = read_json(path, "genotype file", ConfigError)
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(f'{path}: a genotype file must be {{"epoch0": {{"enc": ..., "dec": ...}}}}')
    genotypes = {}
    for key, entry in entries.items():
        match = re.fullmatch(r"epoch(0|[1-9]\d{0,8})", key)
        if match is None:
            raise ConfigError(f"{path}: key {shown(key)} is not of the form epoch<N>")
        try:
            genotypes[int(match[1])] = convert(entry, Genotype, key)
        except ConfigError as exception:
            raise ConfigError(f"{path}: {exception}") from None
    return dict(sorted(genotypes.items()))


def read_genotype(path: PathLike, epoch: int | None = None) -> Genotype:
    """Return the entry of `epoch`, or of the last epoch when None."""
    genotypes = read_genotypes(path)
    epoch = max(genotypes) if epoch is None else epoch
    if epoch not in genotypes:
        valid = ", ".join(map(str, genotypes))
        raise ConfigError(f"{path} has no epoch{epoch}; --GENO_EPOCH may be one of {valid}")
    return genotypes[epoch]


def write_genotypes(path: PathLike, genotypes: dict[int, Genotype]) -> None:
    """Write all entries to `path`, atomically."""
    write_json(path, {f"epoch{epoch}": genotype.to_dict() for epoch, genotype in genotypes.items()}, indent=2)
