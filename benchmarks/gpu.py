"""Checks and timings of this project on one GPU, in ten minutes at most.

    python -m benchmarks.gpu                    # --only parity,training for parts; --out FILE for the report
    python -m benchmarks.gpu --device cpu       # the same logic in small sizes on a CPU; its figures mean little

Checks come first, then timings, then what may take long. A section is left out when it needs more time than is
left, which counts as a failure. Networks are of size small with the published genotypes and random weights; data
is random or that of a demo world. The exit code is 1 if anything failed.
"""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import gpu_checks, gpu_runs, gpu_speed
from benchmarks.gpu_report import Report
from mmnas.models.precision import use_precision

GRACE = 20  # seconds that a section may take beyond the time for all
# Name, seconds that it needs on a GPU, function; torch.compile may outlast any time, so it comes last.
SECTIONS: list[tuple[str, int, Callable[[Report], None]]] = [
    ("machine", 10, gpu_speed.machine),
    ("parity", 30, gpu_checks.parity),
    ("kernels", 15, gpu_checks.kernels),
    ("pairs", 10, gpu_checks.pairs),
    ("attention", 20, gpu_checks.attention),
    ("runs", 90, gpu_runs.runs),
    ("processes", 40, gpu_runs.processes),
    ("training", 120, gpu_speed.training),
    ("scoring", 30, gpu_speed.scoring),
    ("feeding", 40, gpu_speed.feeding),
    ("graph", 30, gpu_speed.graph),
    ("compile", 90, gpu_speed.compiled),
]


def _stop(*_: object) -> None:
    raise TimeoutError("the time for all sections is over")


def run(report: Report, name: str, needed: int, section: Callable[[Report], None]) -> None:
    """Run a section; whatever it raises is a failure of that section alone."""
    if report.on_gpu and report.seconds_left() < needed:
        report.check(name, False, f"left out: it needs {needed} s, {report.seconds_left():.0f} s are left")
        return
    report.say(f"== {name}")
    began = time.monotonic()
    use_precision("fp32")
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(max(1, int(report.seconds_left()) + GRACE) if report.on_gpu else 0)
    try:
        section(report)
    except Exception as exception:  # of any kind: the other sections are to be seen, too
        traceback.print_exc()
        report.check(name, False, f"{type(exception).__name__}: {str(exception)[:300]}")
    signal.alarm(0)
    report.say(f"   {time.monotonic() - began:.0f} s")
    if report.on_gpu:
        torch.cuda.empty_cache()


def main() -> int:
    """Run the sections, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=540, help="time for all sections (default: 540)")
    parser.add_argument("--only", help="sections, separated by commas")
    parser.add_argument("--out", type=Path, help="file for the report")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: this machine has no GPU that torch can use; --device cpu tries the logic without one")
    names = [name for name, *_ in SECTIONS]
    chosen = options.only.split(",") if options.only else names
    if unknown := set(chosen) - set(names):
        sys.exit(f"error: no section {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        report = Report(torch.device(options.device), options.seconds, Path(folder))
        for name, needed, section in SECTIONS:
            if name in chosen:
                run(report, name, needed, section)
    report.finish(options.out)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
