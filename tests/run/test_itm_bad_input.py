"""What a user can get wrong in matching: each ends in one clear line, exit code 2; oddities are warned of."""

import json
import shutil

import numpy as np
import pytest

from mmnas.config import Config, load_config
from mmnas.engine.checkpoint import load_checkpoint
from mmnas.errors import CheckpointError, ConfigError
from mmnas.tasks.itm import ITMTask
from tests.conftest import Workplace
from tests.run.test_bad_input import refused, rewrite


@pytest.fixture
def place(tmp_path, world):
    return Workplace(tmp_path, world, "itm")


@pytest.fixture
def data(place, tmp_path):
    """A copy of the world's matching part that a test may damage."""
    folder = tmp_path / "data"
    for name in ("itm", "flickr_rois_resnet101_fix36", "word_vectors"):
        shutil.copytree(place.data / name, folder / name)
    place.data = folder
    return folder


def caption_file(data, name):
    return data / "itm" / "f30k_precomp" / name


def feature_files(data):
    """The feature files of the first train images, in their order in the ids file."""
    index = json.loads((data / "itm" / "dataset_flickr30k.json").read_text())["images"]
    names = {entry["imgid"]: entry["filename"] for entry in index}
    ids = caption_file(data, "train_ids.txt").read_text().split()
    return [data / "flickr_rois_resnet101_fix36" / f"{names[int(number)]}.npz" for number in ids]


def test_files_that_are_not_there(place, run, data, tmp_path):
    refused(run(place, *place.train_flags("x"), f"--DATA_PATH={tmp_path}/nowhere"), "nowhere", "train_caps.txt")
    for name in ("train_ids.txt", "train_caps.txt"):
        path = caption_file(data, name)
        content = path.read_bytes()
        path.unlink()
        refused(run(place, *place.train_flags("x")), name, "not found")
        path.write_bytes(content)
    (data / "itm" / "dataset_flickr30k.json").unlink()
    refused(run(place, *place.train_flags("x")), "dataset_flickr30k.json", "not found")


def test_a_missing_split_that_nobody_asked_for_is_a_warning(place, run, data):
    caption_file(data, "test_caps.txt").unlink()
    done = run(place, *place.train_flags("x", "--MAX_EPOCH=1"))
    assert done.code == 0, done.output
    assert "no captions of test: the vocabulary differs" in done.output
    refused(run(place, "--RUN=test", "--VERSION=x"), "test_caps.txt")


def test_line_counts_that_fit_neither_form(place, run, data):
    path = caption_file(data, "train_caps.txt")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    refused(run(place, *place.train_flags("x")), "train_ids.txt has 24 lines, train_caps.txt 119")


def test_images_without_features_are_named_and_counted(place, run, data):
    paths = sorted(feature_files(data)[:3], key=lambda path: int(path.name.split(".")[0]))
    for path in paths:
        path.unlink()
    image = paths[0].name.split(".")[0]
    refused(run(place, *place.train_flags("x")), f"image {image} and 2 more images", "--FEAT_PATH")


def test_ids_that_the_index_lacks(place, run, data):
    path = data / "itm" / "dataset_flickr30k.json"
    content = json.loads(path.read_text())
    ids = [int(number) for number in caption_file(data, "train_ids.txt").read_text().split()[:2]]
    content["images"] = [entry for entry in content["images"] if entry["imgid"] not in ids]
    path.write_text(json.dumps(content))
    refused(run(place, *place.train_flags("x")), f"image {ids[0]} and 1 more", "train_ids.txt", path.name)


def test_an_empty_caption_is_kept_scored_and_warned_of(matched, place, run, data):
    path = caption_file(data, "test_caps.txt")
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], "", *lines[2:]]))
    done = run(place, "--RUN=test", f"--CKPT_PATH={matched.checkpoint('base', 'epoch2.pkl')}", "--VERSION=odd")
    assert done.code == 0, done.output
    assert "test_caps.txt: line 2 is empty (1 such)" in done.output
    assert np.isfinite(np.load(place.folder / "logs/ckpts/result_test/result_run_odd.scores.npy")).all()
    assert place.result("test", "odd")[12 + 1]["text"] == ""


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("epochs", [0, 1])
def test_damaged_features(place, run, data, workers, epochs):
    """Met in a training batch, or before it in the search for negatives."""
    settings = place.folder / "small.yml"
    settings.write_text(settings.read_text().replace("negative_epochs: 1", f"negative_epochs: {epochs}"))
    path = feature_files(data)[5]
    with np.load(path) as file:
        x = file["x"]
    rewrite(path, x=np.where(x == x.max(), np.nan, x))
    refused(run(place, *place.train_flags("x"), f"--NW={workers}"), path.name, "NaN")


def test_fewer_images_than_candidates(place, run, data):
    """Two images: each has one other, and five captions that are not its own."""
    for kind, lines in (("caps", 10), ("ids", 2)):
        path = caption_file(data, f"train_{kind}.txt")
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    settings = place.folder / "small.yml"
    settings.write_text(settings.read_text().replace("negative_epochs: 1", "negative_epochs: 0"))
    done = run(place, *place.train_flags("few"))
    assert done.code == 0, done.output
    assert np.isfinite(load_checkpoint(place.checkpoint("few", "epoch2.pkl")).history[1]["loss"])
    for kind, lines in (("caps", 5), ("ids", 1)):
        path = caption_file(data, f"train_{kind}.txt")
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    refused(run(place, *place.train_flags("one")), "one image", "negatives")


def test_protocols_of_another_data_set(matched, place, run):
    for protocol in ("coco5k", "coco1k"):
        done = run(place, *place.train_flags("x"), f"--PROTOCOL={protocol}")
        refused(done, f"--PROTOCOL={protocol}", "--DATASET=flickr", "flickr1k")
        trained = f"--CKPT_PATH={matched.checkpoint('base', 'epoch2.pkl')}"
        refused(run(place, "--RUN=test", trained, f"--PROTOCOL={protocol}"), f"--PROTOCOL={protocol}", "flickr1k")
    refused(run(place, *place.train_flags("x"), "--DATASET=coco", "--PROTOCOL=flickr1k"), "coco5k, coco1k")


def test_flags_that_contradict_the_checkpoint(matched, place, run):
    flag = f"--CKPT_PATH={matched.checkpoint('base', 'epoch2.pkl')}"
    refused(run(place, "--RUN=test", flag, "--DATASET=coco"), "--DATASET=coco contradicts", "trained with flickr")
    refused(run(place, "--RUN=test", flag, "--LOSS=margin"), "--LOSS=margin contradicts", "trained with bce")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"data.dataset": "flicker"}, "data.dataset 'flicker' is unknown; did you mean flickr?"),
        ({"data.protocol": "coco"}, "data.protocol 'coco' is unknown"),
        ({"training.loss": "hinge"}, "training.loss 'hinge' is unknown"),
        ({"training.negative_candidates": 0}, "training.negative_candidates must be an integer of at least 1"),
    ],
)
def test_values_that_a_yaml_may_hold(override, message):
    with pytest.raises(ConfigError, match=message):
        ITMTask.settle(config(override))


def config(overrides) -> Config:
    return load_config("itm", "tiny", split="train", version="x", overrides=overrides)


def test_negatives_of_other_captions_are_no_moment_to_resume(place):
    task = ITMTask(ITMTask.settle(config({"paths.data": str(place.data)})))
    task.vocabularies = task.build_vocabularies()
    datasets = [task.training_set()]
    for state in ({}, {"negatives": task.state(datasets)["negatives"][:-1]}):
        with pytest.raises(CheckpointError, match="same data"):
            task.restore_state(datasets, state)
