"""How a run ends: with workers, with several processes, by signals at any time."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from mmnas.engine.checkpoint import checkpoints_in, load_checkpoint
from mmnas.engine.distributed import Group
from mmnas.engine.loading import _Batches
from mmnas.engine.stopping import InterruptedRun, StopSignal
from mmnas.engine.trainer import Trainer
from mmnas.run.flags import Request
from mmnas.run.plan import make_plan
from mmnas.run.session import prepare
from mmnas.tasks.vqa import VQATask
from tests.conftest import Workplace
from tests.stand_in import NoScalars

TWO = "--GPU=cpu,cpu"


def wait_for(found, process, seconds=240):
    """Wait until `found()` is true, as long as the process lives."""
    end = time.monotonic() + seconds
    while not found():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.parametrize("flags", [["--NW=2"], ["--NW=1", "--GPU=cpu, cpu"]])
def test_an_error_in_a_worker_ends_the_run_in_one_line(place, tmp_path, flags):
    data = tmp_path / "data"
    for name in ("vqa", "coco_extract", "word_vectors"):
        shutil.copytree(place.data / name, data / name)
    place.data = data
    path = sorted((data / "coco_extract" / "train2014").glob("*.npz"))[0]
    path.write_bytes(path.read_bytes()[:1000])
    process = place.script(*place.train_flags("x"), *flags)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert output.count("error: ") == 1 and "truncated" in output and "Traceback" not in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_short_epochs_of_two_processes_are_stopped_too(place, number):
    process = place.script(*place.train_flags("short", "--MAX_EPOCH=60"), "--GPU=cpu,cpu")  # five steps each
    wait_for(place.checkpoint("short", "epoch1.pkl").exists, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number, output
    assert "--RESUME" in output and "trained 60 epochs" not in output


def test_a_closed_terminal_stops_a_search(place):
    process = place.script(*place.search_flags("closed", "--MAX_EPOCH=60"))
    wait_for(place.checkpoint("closed", "epoch1.pkl").exists, process)
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGHUP, output
    assert "--RUN=search --RESUME --VERSION=closed" in output.splitlines()[-1]


def test_a_time_limit_saves_and_stops(tmp_path, world):
    plan, trainer = trainer_of(tmp_path, world, time_limit=1)
    assert 50 < plan.deadline - time.time() <= 60
    with pytest.raises(InterruptedRun, match="time is up: stopped after 0 epochs and 0 steps") as caught:
        trainer.fit(NoScalars(), time.time())
    assert caught.value.number == signal.SIGALRM
    assert load_checkpoint(plan.folder / "epoch0.pkl").step == 0


def test_a_run_that_ends_in_time_is_not_stopped_later(tmp_path, world):
    with StopSignal(time.time() + 0.1) as stop:
        pass
    time.sleep(0.2)
    assert stop.number == 0 and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


@pytest.fixture
def hanging(monkeypatch):
    """Have workers hang after `batches` batches, and a signal come once half a second later."""

    def start(folder, batches, number=signal.SIGTERM):
        read, given, hung = _Batches.__getitems__, [], folder / "hung"

        def hang(self, indices):
            given.append(indices)
            if get_worker_info() and len(given) > batches:
                hung.touch()
                time.sleep(1000)
            return read(self, indices)

        def send():
            while not hung.exists():
                time.sleep(0.05)
            time.sleep(0.5)
            os.kill(os.getpid(), number)

        monkeypatch.setattr(_Batches, "__getitems__", hang)
        threading.Thread(target=send, daemon=True).start()

    yield start
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("batches", "number"), [(0, signal.SIGTERM), (3, signal.SIGUSR1)])
def test_a_signal_ends_the_wait_for_a_worker_that_hangs(place, run, hanging, monkeypatch, batches, number):
    hanging(place.folder, batches, number)
    since = time.monotonic()
    done = run(place, *place.train_flags("x", "--MAX_EPOCH=1"), "--NW=1")
    assert done.code == 128 + number and time.monotonic() - since < 20
    assert f"stopped after 0 epochs and {batches} steps" in done.output.splitlines()[-1]
    assert load_checkpoint(checkpoints_in(place.checkpoint("x", "x").parent)[0]).step == batches
    monkeypatch.undo()
    assert run(place, "--RUN=train", "--RESUME", "--VERSION=x").code == 0


def test_a_signal_ends_scoring_by_a_worker_that_hangs_without_a_result(trained, place, run, hanging):
    hanging(place.folder, 0)
    checkpoint = f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}"
    done = run(place, "--RUN=val", checkpoint, "--VERSION=v", "--NW=1")
    assert done.code == 128 + signal.SIGTERM
    assert done.output.splitlines()[-1] == "stopped: no result is written"
    assert not (place.folder / "logs/ckpts/result_val").exists()


def trainer_of(folder, world, **flags):
    Workplace(folder, world)  # with its files
    overrides = {"paths.data": str(world), "paths.logs": str(folder / "logs")}
    files = {"file": str(folder / "small.yml"), "geno_path": str(folder / "small.json")}
    request = Request("train", size="tiny", version="timed", split="train", overrides=overrides, **files, **flags)
    plan = make_plan(VQATask, request)
    task = VQATask(plan.config)
    return plan, Trainer(task, prepare(task, plan), plan.genotype, Group(), plan.folder, keep_all=False)


@pytest.mark.parametrize("flags", [["--TIME_LIMIT=0"], ["--TIME_LIMIT=-1"], [f"--TIME_LIMIT={10**18 - 1}"]])
def test_a_time_limit_that_cannot_be_is_one_line(place, run, flags):
    done = run(place, *place.train_flags("x", *flags))
    assert done.code == 2 and "--TIME_LIMIT=" in done.output and len(done.output.splitlines()) == 1


def test_nohup_is_respected_and_only_a_second_ctrl_c_ends_at_once():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.number == 0
            signal.raise_signal(signal.SIGUSR1)
            stop.TOGETHER = -1.0
            signal.raise_signal(signal.SIGUSR1)
            assert stop.number == signal.SIGUSR1
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize(
    ("seconds", "flags"),
    [(0.2, []), (0.6, []), (1.0, []), (2.0, []), (4.0, [TWO]), (6.0, [TWO])],
)
def test_ctrl_c_while_a_run_starts_shows_no_traceback(place, seconds, flags):
    process = place.script(*place.train_flags("early", "--MAX_EPOCH=60", *flags))
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("flags", "number"), [(["--GPU=cpu"], 2), (["--GPU=cpu, cpu"], 2), (["--GPU=cpu, cpu"], 15)]
)
def test_a_signal_while_scoring(trained, place, flags, number):
    checkpoint = f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}"
    process = place.script("--RUN=val", checkpoint, "--VERSION=v", "--BS=1", *flags)
    log = place.folder / "logs/log/log_run_v.txt"
    wait_for(lambda: log.exists() and "val vqa" in log.read_text(), process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode in (128 + number, -number), output
    assert "Traceback" not in output
    assert not (place.folder / "logs/ckpts/result_val/result_run_v.json").exists()


def test_an_epoch_is_saved_before_it_is_scored_and_scored_on_resuming(trained, place, run):
    """A checkpoint whose last epoch was never scored, as a kill during scoring leaves it."""
    values = torch.load(trained.checkpoint("base", "epoch2.pkl"), weights_only=True)
    scored = values["history"][-1]["metrics"]
    values["history"][-1]["metrics"] = None
    path = place.checkpoint("base", "epoch2.pkl")
    path.parent.mkdir(parents=True)
    torch.save(values, path)
    assert run(place, "--RUN=train", "--RESUME", "--VERSION=base").code == 0
    assert load_checkpoint(path).history[-1]["metrics"] == scored


def test_an_old_checkpoint_is_not_resumed_beside_later_ones(trained, run):
    folder = trained.checkpoint("base", "x").parent
    before = sorted(path.name for path in folder.iterdir())
    flags = ["--RUN=train", "--RESUME", f"--CKPT_PATH={folder}/epoch1.pkl"]
    done = run(trained, *flags)
    assert done.code == 2 and "epoch2.pkl" in done.output and "--VERSION" in done.output
    assert sorted(path.name for path in folder.iterdir()) == before
    assert run(trained, *flags, "--VERSION=branch").code == 0
    assert trained.checkpoint("branch", "epoch2.pkl").is_file()


def test_what_cannot_be_written_is_said_in_one_line(place, run):
    (place.folder / "logs").mkdir()
    (place.folder / "logs" / "log").write_text("in the way")
    done = run(place, *place.train_flags("x"))
    assert done.code == 2 and done.output.startswith("error: ") and len(done.output.splitlines()) == 1
    assert "logs/log" in done.output


def test_logs_elsewhere_by_cfg_are_found_again(place, run):
    settings = place.folder / "small.yml"
    settings.write_text(settings.read_text() + "paths: {logs: elsewhere}\n")
    assert run(place, *place.train_flags("x", "--MAX_EPOCH=1")).code == 0
    (place.folder / "logs.yml").write_text("paths: {logs: elsewhere}\n")
    assert run(place, "--RUN=val", "--VERSION=x", f"--CFG={place.folder}/logs.yml").code == 0


def test_resume_belongs_to_training(trained, run):
    done = run(trained, "--RUN=val", "--VERSION=base", "--RESUME")
    assert done.code == 2 and "--RUN=train" in done.output


def test_released_weights_of_an_old_torch_load(trained, place):
    state = {"module.embedding.weight": torch.arange(6.0).view(2, 3)}
    torch.save({"state_dict": state, "epoch": 13}, place.folder / "old.pkl", _use_new_zipfile_serialization=False)
    loaded = load_checkpoint(place.folder / "old.pkl")
    np.testing.assert_array_equal(loaded.state["module.embedding.weight"], state["module.embedding.weight"])


def test_ids_that_two_files_share_do_not_mix_their_answers(place, run, tmp_path):
    from mmnas.config import load_config
    from mmnas.tasks.vqa import VQATask

    data = tmp_path / "data"
    shutil.copytree(place.data / "vqa", data / "vqa")
    (data / "coco_extract").symlink_to(place.data / "coco_extract")
    first = json.loads((data / "vqa/v2_mscoco_train2014_annotations.json").read_text())["annotations"][0]
    for name, key in (("VG_questions", "questions"), ("VG_annotations", "annotations")):
        content = json.loads((data / f"vqa/{name}.json").read_text())
        content[key][0]["question_id"] = first["question_id"]
        (data / f"vqa/{name}.json").write_text(json.dumps(content))

    def targets(split):
        overrides = {"paths.data": str(data), "data.answer_min_count": 2}
        task = VQATask(load_config("vqa", "tiny", split=split, version="x", overrides=overrides))
        task.vocabularies = task.build_vocabularies()
        return task.training_set()[0]["answer_scores"]

    np.testing.assert_array_equal(targets("train+val+vg"), targets("train"))
