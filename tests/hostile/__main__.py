"""`python -m tests.hostile`: altered files by the thousand for every reader, each reader in a process of its own.

Every file must be accepted, or refused by one clear line of this project's own exceptions, within a time and a
memory limit. Exits with 1 where one was not, and says how to make that file again.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.hostile.feeding import MEBIBYTES, Outcome, feed, limit_memory
from tests.hostile.readers import READERS

SHOWN = 5  # faults of one reader that are printed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="altered files per reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first, to make one again")
    parser.add_argument("--reader", choices=READERS, action="append", help="this one only; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return _child(arguments)
    print(f"{'reader':<26}{'inputs':>8}{'accepted':>10}{'refused':>9}{'faults':>8}{'slowest':>10}{'growth':>10}")
    good = True
    for name in arguments.reader or READERS:
        outcome = _in_process(name, arguments)
        print(
            f"{name:<26}{outcome.inputs:>8}{outcome.accepted:>10}{outcome.refused:>9}{len(outcome.faults):>8}"
            f"{outcome.slowest:>8.2f} s{outcome.growth:>6.0f} MiB",
            *(f"    {fault}" for fault in outcome.faults[:SHOWN]),
            sep="\n",
            flush=True,
        )
        good = good and not outcome.faults
    return 0 if good else 1


def _child(arguments: argparse.Namespace) -> int:
    limit_memory(2 * MEBIBYTES)
    files = arguments.child / "files"
    files.mkdir()
    numbers = _noted(range(arguments.first, arguments.first + arguments.inputs), arguments.child / "input")
    outcome = feed(arguments.reader[0], files, numbers, arguments.seed)
    print(json.dumps(dataclasses.asdict(outcome)))
    return 0


def _noted(numbers: Iterable[int], path: Path) -> Iterator[int]:
    """Write each number to a file before it is used, for whoever finds this process dead."""
    for number in numbers:
        path.write_text(str(number))
        yield number


def _in_process(name: str, arguments: argparse.Namespace) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            "--reader",
            name,
            "--inputs",
            arguments.inputs,
            "--first",
            arguments.first,
            "--seed",
            arguments.seed,
        ]
        command = [sys.executable, "-m", "tests.hostile", *map(str, flags), "--child", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            what = f"{name}, seed {arguments.seed}, input {(Path(folder) / 'input').read_text()}"
            return Outcome(faults=[f"{what}: its process ended with {done.returncode}: {done.stderr[-500:]}"])
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
