"""`python -m mmnas demo search`: a search on the demo world, and what its genotype is worth.

Runs `train_vgd.py` as a user would: the search, then a training run each of the genotype that it found, of MCAN's
pattern and of two random ones, all of the same length.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mmnas.demo.comparison import in_words, last_accuracy, search_space_of, write_contestants
from mmnas.demo.scripts import run_script, say
from mmnas.genotype import read_genotypes
from mmnas.paths import RunPaths

# Grounding learns the fastest of the three tasks.
TASK, HEADLINE = "vgd", "accuracy"
VERSION = "demo_search"
SEARCH_EPOCHS, TRAINING_EPOCHS = 6, 3
RANDOMS = 2


def demo_search(data: Path, logs: Path, flags: Sequence[str] = ()) -> int:
    """Search and compare on the world in `data`; return the exit code of the first run that fails, or 0.

    `flags` are added to those of the search and of every training run.
    """
    found = RunPaths(logs, VERSION).genotypes
    found.unlink(missing_ok=True)
    for folder in logs.glob(f"ckpts/ckpt_{VERSION}*"):
        shutil.rmtree(folder)
    common = ["--MODEL=tiny", f"--DATA_PATH={data}"]
    search = ["--RUN=search", f"--VERSION={VERSION}", f"--MAX_EPOCH={SEARCH_EPOCHS}", *flags]
    code = run_script(TASK, [*search, *common])
    if code:
        return code
    contestants = logs / "ckpts" / f"{VERSION}_contestants.json"
    names = write_contestants(contestants, found, search_space_of(TASK), RANDOMS, seed=0)
    for epoch in range(len(names)):
        own = [f"--VERSION={VERSION}_{epoch}", f"--GENO_PATH={contestants}", f"--GENO_EPOCH={epoch}"]
        train = ["--RUN=train", "--SPLIT=train", f"--MAX_EPOCH={TRAINING_EPOCHS}", *flags]
        code = run_script(TASK, [*train, *own, *common])
        if code:
            return code
    say(_table(names, contestants, logs))
    return 0


def _table(names: Sequence[str], contestants: Path, logs: Path) -> str:
    """Accuracy on val and blocks of every contestant, and where things lie."""
    genotypes = read_genotypes(contestants)
    rows = [
        f"{name:<10}{last_accuracy(logs, f'{VERSION}_{epoch}', HEADLINE):>10.2f}  {in_words(genotypes[epoch])}"
        for epoch, name in enumerate(names)
    ]
    return "\n".join(
        [
            "",
            f"{'genotype':<10}{'accuracy':>10}  blocks (encoder | decoder)",
            *rows,
            f"found by the search: {RunPaths(logs, VERSION).genotypes}",
            f"checkpoints:         {RunPaths(logs, VERSION).checkpoints}*",
        ]
    )
