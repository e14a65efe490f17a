"""What the sections of `benchmarks.gpu` share: the device, the time that is left, checks, rows of the table."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from mmnas.batch import Batch

T = TypeVar("T")
HEADINGS = ("work", "rate", "TFLOP/s", "peak memory", "kernels a step", "GPU busy")


@dataclass
class Report:
    """One run of the benchmark on a device."""

    device: torch.device
    seconds: float
    folder: Path
    """For files; removed at the end."""
    began: float = field(default_factory=time.monotonic)
    failed: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def pick(self, on_gpu: T, on_cpu: T) -> T:
        """Return the size of the work for the device."""
        return on_gpu if self.on_gpu else on_cpu

    def seconds_left(self) -> float:
        """Return the time that is left for all sections."""
        return self.seconds - (time.monotonic() - self.began)

    def say(self, line: str) -> None:
        """Print a line and keep it for the report."""
        self.lines.append(line)
        print(line, flush=True)

    def check(self, name: str, good: bool, detail: object = "") -> None:
        """Note whether something holds."""
        self.say(f"  {'pass' if good else 'FAIL'}  {name}  {detail}")
        if not good:
            self.failed.append(name)

    def row(self, work: str, rate: float, unit: str, *more: str) -> None:
        """Add a row of the table: its rate, and the cells under the further headings."""
        cells = (work, f"{rate:,.0f} {unit}" if rate >= 100 else f"{rate:.3g} {unit}", *more)
        self.rows.append(cells + ("",) * (len(HEADINGS) - len(cells)))
        self.say("    " + "  ".join(filter(None, cells)))

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds_of(self, work: Callable[[], object], times: int) -> float:
        """Return the time of one call, after one to warm up."""
        work()
        self.wait()
        began = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return (time.perf_counter() - began) / times

    def moved(self, batch: Batch) -> Batch:
        """Return a batch on the device."""
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def autocast(self, enabled: bool = True) -> torch.autocast:
        """Return the context of bf16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Send what is printed inside as an error or progress to `log.txt`."""
        with open(self.folder / "log.txt", "a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
            yield

    def finish(self, out: Path | None) -> None:
        """Print the table and what failed; write all of it where asked."""
        table = [HEADINGS, ("---",) * len(HEADINGS), *self.rows]
        self.say("\n" + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n")
        took = f"{time.monotonic() - self.began:.0f} s"
        self.say(f"FAILED: {'; '.join(self.failed)} ({took})" if self.failed else f"all passed ({took})")
        if out:
            out.write_text("\n".join(self.lines) + "\n", encoding="utf-8")


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, wherever they lie."""
    return float((one.detach().double().cpu() - other.detach().double().cpu()).abs().max())


def relative_difference(one: Tensor, other: Tensor) -> float:
    """Return the norm of the difference as a part of that of the second tensor; infinite if one is not finite."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    return float((one - other).norm() / other.norm()) if one.isfinite().all() else float("inf")
