"""A run that fails before it trains leaves nothing behind; one that has begun keeps its log."""

import shutil

import pytest


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("missing", ["coco_extract", "vqa/v2_mscoco_train2014_annotations.json"])
def test_a_run_that_fails_before_training_leaves_nothing(place, run, tmp_path, missing):
    data = tmp_path / "data"
    shutil.copytree(place.data / "vqa", data / "vqa")
    (data / "coco_extract").symlink_to(place.data / "coco_extract")
    (data / missing).unlink()
    before = files_in(place.folder)
    done = run(place, *place.train_flags("vain"), f"--DATA_PATH={data}")
    assert done.code == 2 and files_in(place.folder) == before


def test_what_was_there_stays(place, run, tmp_path):
    assert run(place, *place.train_flags("kept", "--MAX_EPOCH=1")).code == 0
    before = files_in(place.folder)
    for flags in (["--RUN=train", "--RESUME"], ["--RUN=val"]):
        done = run(place, *flags, "--VERSION=kept", "--GPU=cpu", f"--DATA_PATH={tmp_path}/absent")
        assert done.code == 2 and files_in(place.folder) == before
    assert "error: " in (place.folder / "logs/log/log_run_kept.txt").read_text()
