"""`python -m mmnas demo <task>`: the demo world, a tiny network, and what it has learnt beside the prior.

Runs the task's own script, as a user would: train, val, test.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from mmnas.data.demo_world import write_world
from mmnas.data.vqa_json import read_annotations, require_annotations
from mmnas.errors import ConfigError
from mmnas.files import read_json
from mmnas.metrics.vqa_accuracy import prior_accuracy

SCRIPTS = Path(__file__).resolve().parent.parent
DATA = Path("data/demo")
LOGS = Path("logs")


def demo(task: str = "vqa") -> int:
    """Run the demo of `task` in the working directory; return the exit code."""
    if task not in DEMOS:
        raise ConfigError(f"no demo '{task}'; valid ones: {', '.join(DEMOS)}")
    counts = write_world(DATA)
    _say(f"demo world in {DATA}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))
    return DEMOS[task]()


def _demo_vqa() -> int:
    version = "demo_vqa"
    shutil.rmtree(LOGS / "ckpts" / f"ckpt_{version}", ignore_errors=True)
    common = [f"--VERSION={version}", f"--DATA_PATH={DATA}"]
    genotype = SCRIPTS / "logs" / "ckpts" / "arch" / "train_vqa.json"
    for flags in (
        ["--RUN=train", "--MODEL=tiny", "--SPLIT=train", f"--GENO_PATH={genotype}"],
        ["--RUN=val"],
        ["--RUN=test"],
    ):
        code = _run_script("train_vqa.py", [*flags, *common])
        if code:
            return code
    _say(_vqa_table(version))
    return 0


def _vqa_table(version: str) -> str:
    """Accuracy on val beside that of each question type's most frequent answer, and where things lie."""
    results = LOGS / "ckpts"
    official = read_json(results / "result_val" / f"result_run_{version}.metrics.json")["official"]
    train, val = (read_annotations(require_annotations(DATA, split)) for split in ("train", "val"))
    prior = prior_accuracy(train, val)
    rows = [("overall", official["overall"], prior["overall"])]
    rows += [(name, value, prior["answer_type"][name]) for name, value in official["answer_type"].items()]
    meta = read_json(results / "result_val" / f"result_run_{version}.meta.json")
    return "\n".join(
        [
            "",
            f"{'VQA accuracy on val':<22}{'model':>8}{'prior':>8}",
            *(f"{name:<22}{value:>8.2f}{base:>8.2f}" for name, value, base in rows),
            "prior: always the question type's most frequent answer",
            f"checkpoint: {meta['checkpoint']}",
            f"result:     {results / 'result_test' / f'result_run_{version}.json'}",
        ]
    )


def _run_script(script: str, flags: list[str]) -> int:
    """Run one of the scripts; its output goes where this process's does."""
    path = SCRIPTS / script
    if not path.is_file():
        raise ConfigError(f"{path} not found: the demo runs in a clone of the project")
    _say(f"$ python3 {script} {' '.join(flags)}")
    return subprocess.run([sys.executable, str(path), *flags], check=False).returncode


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


DEMOS = {"vqa": _demo_vqa}
