"""`python -m mmnas show-arch`: an architecture block by block, in words, and as a picture."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmnas.config import SIZES, Config, load_config
from mmnas.genotype import Genotype, read_genotype, read_genotypes
from mmnas.search.drawing import save_png, short_row
from mmnas.search.genotype_picture import draw_architecture
from mmnas.tasks import TASKS

if TYPE_CHECKING:
    from mmnas.models.cost import Cost

    Costs = tuple[Sequence[Cost], Sequence[Cost]]

MOST_POSITIONS = 10**6
LEFT_OUT = """\
Blocks only: stems, relation embedding and head are not counted. Multiply-adds: one sample's forward pass,
matrix products and convolutions; element-wise work, softmax and layer norms are not counted."""


def add(commands) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("show-arch", help="show a genotype: operations, parameters, multiply-adds")
    parser.add_argument("file", help="genotype file, such as logs/ckpts/arch/train_vqa.json")
    parser.add_argument("--epoch", type=int, help="which entry of the file (default: the last)")
    parser.add_argument("--task", choices=TASKS, default="vqa", help="default: vqa")
    parser.add_argument("--MODEL", choices=SIZES, default="small", help="size of the network (default: small)")
    parser.add_argument("--regions", type=_positions, help="N (default: the task's, 100 for vqa)")
    parser.add_argument("--tokens", type=_positions, help="T (default: the task's, 14 for vqa)")
    parser.add_argument("--png", help="draw it to this file, too")
    parser.set_defaults(run=show_arch)


def _positions(text: str) -> int:
    if not text.isdecimal() or len(text) > 7 or not 1 <= int(text) <= MOST_POSITIONS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MOST_POSITIONS}, not {text[:20]}")
    return int(text)


def show_arch(options: argparse.Namespace) -> int:
    """Print the architecture and its costs; draw it where asked."""
    epoch = max(read_genotypes(options.file)) if options.epoch is None else options.epoch
    genotype = read_genotype(options.file, epoch)
    config = load_config(options.task, options.MODEL, split="", version="")
    regions = options.regions or config.data.max_regions
    tokens = options.tokens or config.data.max_tokens
    costs = _costs(genotype, config, regions, tokens)
    title = f"{Path(options.file).name}, epoch {epoch}"
    setting = f"{config.task} {config.size} (H {config.model.hidden_size}), {regions} regions, {tokens} tokens"
    print(f"{title}: {setting}\n")
    print("\n".join(_table(genotype, costs)))
    print(f"\n{LEFT_OUT}\n")
    print(f"encoder: {' '.join(map(short_row, genotype.encoder))}")
    print(f"decoder: {' '.join(map(short_row, genotype.decoder))}")
    if options.png is not None:
        parameters, multiply_adds = (f"{value / 1e6:,.1f} M" for value in _total(*costs))
        subtitle = f"{setting}: {parameters} parameters, {multiply_adds} multiply-adds"
        save_png(draw_architecture(genotype, costs, title=title, subtitle=subtitle), options.png)
        print(f"\npicture: {options.png}")
    return 0


def _costs(genotype: Genotype, config: Config, regions: int, tokens: int) -> Costs:
    from mmnas.models.cost import genotype_costs

    return genotype_costs(
        genotype,
        regions=regions,
        tokens=tokens,
        hidden=config.model.hidden_size,
        relation_size=config.model.relation_size,
        head_scale=config.model.head_scale,
    )


def _total(*streams: Sequence[Cost]) -> tuple[int, int]:
    """Return the parameters and the multiply-adds of all blocks together."""
    blocks = [cost for costs in streams for cost in costs]
    return sum(cost.parameters for cost in blocks), sum(cost.multiply_adds for cost in blocks)


def _table(genotype: Genotype, costs: Costs) -> Iterator[str]:
    """Yield a line per block, per stream and for all; millions with three decimals."""
    rows = [*genotype.encoder, *genotype.decoder]
    streams = [("encoder", genotype.encoder, costs[0]), ("decoder", genotype.decoder, costs[1])]
    width = max(len("operations"), *(len(short_row(row)) for row in rows))

    def line(stream: str, block: object, operations: str, parameters: int, multiply_adds: int) -> str:
        figures = f"{parameters / 1e6:>14,.3f}  {multiply_adds / 1e6:>17,.3f}"
        return f"{stream:<7}  {block!s:>5}  {operations:<{width}}  {figures}"

    yield f"{'stream':<7}  {'block':>5}  {'operations':<{width}}  {'parameters (M)':>14}  {'multiply-adds (M)':>17}"
    for stream, stream_rows, stream_costs in streams:
        for block, (row, cost) in enumerate(zip(stream_rows, stream_costs, strict=True)):
            yield line(stream, block, short_row(row), cost.parameters, cost.multiply_adds)
    for stream, stream_rows, stream_costs in streams:
        yield line(stream, "all", f"{len(stream_rows)} blocks", *_total(stream_costs))
    yield line("both", "all", f"{len(rows)} blocks", *_total(*costs))
