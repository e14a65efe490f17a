"""All benchmarks against the published way, in one table.

    python benchmarks/run.py [--quick] [--out FILE] [--threads N]

Both ways are timed in turns within one run. `--quick` is a sanity check of small batches and few rounds; its
figures mean little. Memory has commands of its own: benchmarks.memory and benchmarks.retrieval_memory.
"""

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("training", "retrieval", "loader", "boxes")


def main() -> None:
    """Run every module's `rows`, print the table, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small batches, few rounds")
    parser.add_argument("--out", type=Path, help="file for the table, Markdown")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    from benchmarks.timing import machine, markdown

    torch.set_num_threads(options.threads)
    rows = []
    for name in MODULES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"benchmarks.{name}").rows(options.quick)
    table = f"{machine()}\n\n{markdown(rows)}\n"
    print(table, end="")
    if options.out:
        options.out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
