"""What the benchmarks share: time, the machine's matrix-product rate, rows of the table."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmnas.models.cpu import linear

HEADINGS = ("work", "ratio", "min", "max", "to reach", "here", "published way", "of the matrix rate", "to reach")


@dataclass(frozen=True)
class Row:
    """One piece of work: its rates here and the published way, one of each per round, and what must be reached.

    `shares` are those of the matrix-product rate that the work here reaches.
    """

    work: str
    unit: str
    ours: Sequence[float]
    published: Sequence[float]
    goal: float | None = None
    shares: Sequence[float] = ()
    share_goal: float | None = None

    def cells(self) -> list[str]:
        """Return the cells of the row, under `HEADINGS`."""
        ratios = np.array(self.ours) / np.array(self.published)
        spread = (f"{value:.2f}" for value in (np.median(ratios), ratios.min(), ratios.max()))
        rates = (f"{np.median(rate):.4g} {self.unit}" for rate in (self.ours, self.published))
        share = f"{np.median(self.shares):.2f}" if len(self.shares) else ""
        return [self.work, *spread, _aim(self.goal), *rates, share, _aim(self.share_goal)]


def _aim(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Name the processor, its cores, the threads in use, the versions, and the rates of matrix products."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in product_rates().items())
    versions = f"torch {torch.__version__}, NumPy {np.__version__}"
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; {versions}; 2048 x 2048: {rates}"


def seconds(function: Callable, *arguments) -> float:
    """Run once; return the time."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def product_rates() -> dict[str, float]:
    """Return the floating-point operations per second of a 2048 x 2048 product by torch and by `linear`."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    rates = {}
    for name, product in (("torch", F.linear), ("oneDNN", linear)):
        rates[name] = 2 * 2048**3 / min(seconds(product, a, b) for _ in range(5))
    return rates


def matrix_rate() -> float:
    """Return the machine's rate: the better of the two products."""
    return max(product_rates().values())


def matrix_work(function: Callable, *arguments) -> int:
    """Return the floating-point operations of the matrix products in a call, by torch's counter."""
    products = {torch.ops.mkldnn._linear_pointwise: _linear_work}  # the counter does not know oneDNN's
    with FlopCounterMode(display=False, custom_mapping=products) as counter:
        function(*arguments)
    return counter.get_total_flops()


def _linear_work(x: torch.Size, weight: torch.Size, *_, **__) -> int:
    return 2 * x.numel() * weight[0]


def require_close(ours: torch.Tensor, published: torch.Tensor) -> None:
    """Stop unless both ways give the same: else their times could not be compared."""
    apart = float((ours - published).abs().max())
    if apart > 1e-3:
        raise SystemExit(f"the outputs differ by {apart}: the two ways do not do the same work")
