"""Features that vanish or are no numbers while a run goes on, and a loss that is none."""

import os
import shutil
import time

import numpy as np
import pytest

from mmnas.data.store_writer import pack
from mmnas.engine.checkpoint import checkpoints_in, load_checkpoint


@pytest.fixture
def own_data(place, tmp_path):
    """A workplace with a copy of the world that the test may change."""
    data = tmp_path / "data"
    for name in ("vqa", "coco_extract", "word_vectors"):
        shutil.copytree(place.data / name, data / name)
    place.data = data
    return place


def stopped(place, change, *flags):
    """Train, make the change once the first epoch is behind, and return the error line the run ends with."""
    process = place.script(*place.train_flags("x", "--MAX_EPOCH=400", *flags))
    log, end = place.folder / "logs/log/log_run_x.txt", time.monotonic() + 240
    while not (log.exists() and "epoch 1: loss" in log.read_text()):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.02)
    change()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert "Traceback" not in output and output.count("error: ") == 1
    for path in checkpoints_in(place.folder / "logs/ckpts/ckpt_x"):
        assert load_checkpoint(path).epoch >= 1
    return output.splitlines()[-1]


def files_of(place):
    return sorted((place.data / "coco_extract" / "train2014").glob("*.npz"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_is_named(own_data, workers):
    (path, *_) = files_of(own_data)
    line = stopped(own_data, path.unlink, f"--NW={workers}")
    assert line.startswith(f"error: region features vanished: {path}; restore the file and --RESUME")


def test_features_that_become_nan_are_named(own_data):
    path = files_of(own_data)[0]

    def spoil():
        with np.load(path) as file:
            arrays = dict(file)
        arrays["x"][0, 0] = np.nan
        np.savez(path.with_name("spoilt"), **arrays)
        os.replace(path.with_name("spoilt.npz"), path)

    assert f"{path}: x holds NaN or infinite values" in stopped(own_data, spoil, "--NW=1")


def test_a_store_that_vanishes_is_still_read_or_named(own_data):
    """Its processes hold it open, and say so in one line should they have to open it again."""
    store = own_data.folder / "store.features"
    pack([own_data.data / "coco_extract"], store)
    flags = [f"--FEAT_PATH={store}", "--NW=1"]
    process = own_data.script(*own_data.train_flags("x", "--MAX_EPOCH=3", *flags))
    while not own_data.checkpoint("x", "epoch1.pkl").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    shutil.rmtree(store)
    output, _ = process.communicate(timeout=120)
    assert "Traceback" not in output
    assert process.returncode == 0 or f"error: {store}" in output, output


@pytest.mark.parametrize(("rate", "fault"), [("1.0e+30", "loss or gradient is not finite"), ("1.0e+38", "")])
def test_a_loss_that_is_no_number_names_epoch_and_step(place, run, rate, fault):
    assert run(place, *place.train_flags("x", "--MAX_EPOCH=1")).code == 0
    path = place.checkpoint("x", "epoch1.pkl")
    before = path.read_bytes()
    settings = place.folder / "small.yml"
    settings.write_text(settings.read_text().replace("base_lr: 1.0e-3", f"base_lr: {rate}"))
    done = run(place, *place.train_flags("y", f"--CKPT_PATH={path}"))
    assert done.code == 2, done.output
    line = done.output.splitlines()[-1]
    assert line.startswith(f"error: {fault}") and " in epoch 1, step 2;" in line
    assert path.read_bytes() == before and not checkpoints_in(place.folder / "logs/ckpts/ckpt_y")
