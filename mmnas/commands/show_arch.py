"""`python -m mmnas show-arch`: an architecture block by block, in words, and as a picture."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmnas.config import SIZES, load_config
from mmnas.errors import safe
from mmnas.genotype import Genotype, read_genotype, read_genotypes
from mmnas.search.drawing import save_png, short_row
from mmnas.search.genotype_picture import draw_architecture
from mmnas.tasks import TASKS

if TYPE_CHECKING:
    from mmnas.models.cost import Cost

MOST_POSITIONS = 10**6
NOT_COUNTED = """\
Blocks only: stems, relation embedding and head are not counted. Multiply-adds: one sample's forward pass,
matrix products and convolutions; element-wise work, softmax and layer norms are not counted."""


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("show-arch", help="show a genotype: operations, parameters, multiply-adds")
    parser.add_argument("file", help="genotype file, or a shipped genotype such as train_vqa")
    parser.add_argument("--epoch", type=int, help="which entry of the file (default: the last)")
    parser.add_argument("--task", choices=TASKS, default="vqa", help="default: vqa")
    parser.add_argument("--MODEL", choices=SIZES, default="small", help="size of the network (default: small)")
    parser.add_argument("--regions", type=_positions, help="number of regions (default: the task's, 100 for vqa)")
    parser.add_argument("--tokens", type=_positions, help="number of tokens (default: the task's, 14 for vqa)")
    parser.add_argument("--png", help="also save a picture here")
    parser.set_defaults(run=show_arch)


def _positions(text: str) -> int:
    if not text.isdecimal() or len(text) > 7 or not 1 <= int(text) <= MOST_POSITIONS:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 to {MOST_POSITIONS}, not {text[:20]}")
    return int(text)


def show_arch(options: argparse.Namespace) -> int:
    """Print the architecture and its costs; draw it where asked."""
    from mmnas.models.cost import Cost, genotype_costs
    from mmnas.models.operations import Sizes

    epoch = max(read_genotypes(options.file)) if options.epoch is None else options.epoch
    genotype = read_genotype(options.file, epoch)
    config = load_config(options.task, options.MODEL, split="", version="")
    sizes = Sizes(config.model.hidden_size, config.model.relation_size, config.model.head_scale)
    regions, tokens = options.regions or config.data.max_regions, options.tokens or config.data.max_tokens
    costs = genotype_costs(genotype, sizes, regions=regions, tokens=tokens)
    totals = [sum(stream, Cost()) for stream in (*costs, costs[0] + costs[1])]
    title = safe(f"{Path(options.file).name}, epoch {epoch}")
    setting = f"{config.task} {config.size} (H {sizes.hidden}), {regions} regions, {tokens} tokens"
    print(f"{title}: {setting}\n", *_table(genotype, costs, totals), f"\n{NOT_COUNTED}\n", sep="\n")
    for stream, rows in (("encoder", genotype.encoder), ("decoder", genotype.decoder)):
        print(f"{stream}: {' '.join(map(short_row, rows))}")
    if options.png is not None:
        parameters, multiply_adds = totals[2].parameters / 1e6, totals[2].multiply_adds / 1e6
        subtitle = f"{setting}: {parameters:,.1f} M parameters, {multiply_adds:,.1f} M multiply-adds"
        save_png(draw_architecture(genotype, costs, title=title, subtitle=subtitle), options.png)
        print(f"\npicture: {safe(options.png)}")
    return 0


def _table(genotype: Genotype, costs: Sequence[Sequence[Cost]], totals: Sequence[Cost]) -> Iterator[str]:
    """Yield a line per block, per stream and for all; millions with three decimals."""
    streams = ("encoder", genotype.encoder), ("decoder", genotype.decoder)
    names = [(stream, str(block), short_row(row)) for stream, rows in streams for block, row in enumerate(rows)]
    counts = ("encoder", len(costs[0])), ("decoder", len(costs[1])), ("both", len(names))
    names += [(stream, "all", f"{count} blocks") for stream, count in counts]
    width = max(len("operations"), *(len(operations) for *_, operations in names))
    yield f"stream   block  {'operations':<{width}}  parameters (M)  multiply-adds (M)"
    for (stream, block, operations), cost in zip(names, (*costs[0], *costs[1], *totals), strict=True):
        figures = f"{cost.parameters / 1e6:>14,.3f}  {cost.multiply_adds / 1e6:>17,.3f}"
        yield f"{stream:<7}  {block:>5}  {operations:<{width}}  {figures}"
