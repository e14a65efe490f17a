"""What made the region features goes from them into checkpoints and results; others are refused or warned of."""

import numpy as np
import pytest

from mmnas.config import load_config
from mmnas.data.features import Regions
from mmnas.data.made_by import MADE_BY_FILE, Choice, MadeBy
from mmnas.engine.checkpoint import load_checkpoint
from mmnas.tasks import task_named
from tests.conftest import Workplace

ONE = MadeBy("1" * 64, Choice(10, 100, 0.2), "float32")
OTHER = MadeBy("2" * 64, Choice(10, 100, 0.2), "float32")


def noted(world, path, made_by, folders="coco_extract"):
    """The features of a world, with a note of what made them; a folder for --FEAT_PATH."""
    for folder in (world / folders).iterdir():
        target = path / folder.name
        target.mkdir(parents=True)
        for file in folder.iterdir():
            (target / file.name).symlink_to(file)
        (target / MADE_BY_FILE).write_text(made_by.to_json())
    return f"--FEAT_PATH={path}"


@pytest.fixture(scope="module")
def features(tmp_path_factory, few_images):
    """The flags that name features of two detectors."""
    folder = tmp_path_factory.mktemp("features")
    return [noted(few_images, folder / made_by.detector[0], made_by) for made_by in (ONE, OTHER)]


@pytest.fixture
def place(tmp_path, few_images):
    return Workplace(tmp_path, few_images)


def train(run, place, version, *flags):
    done = run(place, *place.train_flags(version, *flags))
    assert done.code == 0, done.output
    return done.output


def test_from_features_to_checkpoints_and_results(place, run, features):
    one, other = features
    train(run, place, "a", one, "--MAX_EPOCH=1")
    assert load_checkpoint(place.checkpoint("a", "epoch1.pkl")).data["features"] == str(ONE)

    done = run(place, "--RUN=val", "--VERSION=a", one)
    assert done.code == 0 and "was trained on features of" not in done.output
    meta = place.result("val", "a", "meta.json")
    assert meta["features"] == meta["training_features"] == str(ONE)

    done = run(place, "--RUN=val", "--VERSION=a", other)
    (line,) = [line for line in done.output.splitlines() if "was trained on features of" in line]
    assert done.code == 0 and str(ONE) in line and str(OTHER) in line
    meta = place.result("val", "a", "meta.json")
    assert (meta["features"], meta["training_features"]) == (str(OTHER), str(ONE))

    done = run(place, "--RUN=train", "--RESUME", "--VERSION=a", "--MAX_EPOCH=2", other)
    assert done.code == 2 and str(ONE) in done.output and str(OTHER) in done.output
    assert run(place, "--RUN=train", "--RESUME", "--VERSION=a", "--MAX_EPOCH=2", one).code == 0

    source = f"--CKPT_PATH={place.checkpoint('a', 'epoch1.pkl')}"
    output = run(place, "--RUN=train", "--VERSION=tuned", "--MAX_EPOCH=1", source, other).output
    assert f"was trained on features of {ONE}, but these are of {OTHER}" in output
    assert load_checkpoint(place.checkpoint("tuned", "epoch1.pkl")).data["features"] == str(OTHER)


def test_checkpoints_and_features_without_a_note(trained, place, run, features, world):
    """Of neither, anything is said."""
    source = f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}"
    assert "features" not in load_checkpoint(trained.checkpoint("base", "epoch2.pkl")).data
    done = run(Workplace(place.folder, world), "--RUN=val", "--VERSION=old", source)
    assert done.code == 0 and "trained on features" not in done.output
    meta = place.result("val", "old", "meta.json")
    assert meta["features"] == meta["training_features"] == "unknown"


def test_a_split_made_otherwise_is_refused(place, run, few_images, tmp_path):
    flag = noted(few_images, tmp_path / "features", ONE)
    (tmp_path / "features" / "val2014" / MADE_BY_FILE).write_text(OTHER.to_json())
    done = run(place, *place.train_flags("mixed", flag))
    assert done.code == 2 and "must not be mixed" in done.output
    assert str(ONE) in done.output and str(OTHER) in done.output


def test_grounding_says_once_what_the_detector_was_trained_on(grounded, run, world, tmp_path):
    place = Workplace(tmp_path, world, "vgd")
    source = f"--CKPT_PATH={grounded.checkpoint('base', 'epoch2.pkl')}"
    noted(world, tmp_path / "features", ONE, "vgd_coco/fix100")
    flag = f"--FEAT_PATH={tmp_path}/features/refcoco_unc"
    done = run(place, "--RUN=test", "--VERSION=mine", source, flag)
    assert done.code == 0 and done.output.count("was trained on images of RefCOCO") == 1
    assert "RefCOCO" not in run(place, "--RUN=val", "--VERSION=mine", source).output


class Source(dict):
    """Images in memory."""

    def __init__(self, made_by):
        super().__init__({7: Regions(np.zeros((1, 4)), np.float32([[0, 0, 9, 9]]), np.array([9, 9]))})
        self.made_by = made_by

    def describe(self):
        return "val.features"


def test_splits_of_a_task_read_the_same_features(monkeypatch):
    sources = iter([Source(ONE), Source(OTHER)])
    task = task_named("vqa")(load_config("vqa", "tiny", split="train", version="x"))
    monkeypatch.setattr(task, "open_features", lambda: next(sources))
    first, second = task.require_features([7], "questions"), task.require_features([7], "val questions")
    assert first is second and task.made_by == ONE and len(list(sources)) == 1
