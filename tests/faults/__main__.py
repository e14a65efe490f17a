"""`python -m tests.faults`: kills by the hundred, of training and search of every task and of packing.

Each run is resumed after every kill and compared, to the bit, with one left alone. Exits with an error where one
differs or does not go on; --seed and --rounds make the same moments again, as far as a machine's speed allows.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from mmnas.demo.world import write_world
from mmnas.tasks import TASKS
from tests.conftest import Workplace
from tests.faults.rounds import kill_learning, kill_packing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="kills of each command (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_world(data, images=20, seed=0)
        print(f"{'killed':<20}{'times':>8}{'in a write':>12}")
        for task in TASKS:
            for run in ("train", "search"):
                inside = Path(folder) / f"{task}_{run}"
                inside.mkdir()
                done = kill_learning(Workplace(inside, data, task), run, arguments.rounds, arguments.seed)
                print(f"{f'{task} {run}':<20}{done.total:>8}{done.in_writes:>12}", flush=True)
        inside = Path(folder) / "packing"
        inside.mkdir()
        done = kill_packing(inside, arguments.rounds, arguments.seed)
        print(f"{'pack-features':<20}{done.total:>8}{'':>12}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
