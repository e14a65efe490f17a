"""Results of two checkpoints of every task, with scores."""

from types import SimpleNamespace

import pytest

from mmnas.run.cli import main
from mmnas.tasks import task_named
from tests.conftest import Workplace


@pytest.fixture(scope="session")
def scored(tmp_path_factory, world, trained, grounded, matched):
    """A folder with the results "one" and "two" of every task (as "vqa_one") on val and, for "one", on test."""
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for source in (trained, grounded, matched):
            place = Workplace(folder, world, source.task)
            for version, epoch, run in (("one", 2, "val"), ("two", 1, "val"), ("one", 2, "test")):
                checkpoint = f"--CKPT_PATH={source.checkpoint('base', f'epoch{epoch}.pkl')}"
                flags = [f"--RUN={run}", f"--VERSION={source.task}_{version}", checkpoint, "--SCORES", "--GPU=cpu"]
                assert main(task_named(source.task), [*flags, *place.machine(flags)]) == 0

    def path(version, split="val", part=""):
        return folder / f"logs/ckpts/result_{split}/result_run_{version}{part}.json"

    return SimpleNamespace(folder=folder, path=path, logs=folder / "logs", world=world)
