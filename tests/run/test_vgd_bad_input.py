"""What a user of grounding can get wrong: each ends in one clear line, exit code 2, nothing overwritten."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from tests.conftest import Workplace
from tests.places import require_expressions
from tests.run.test_bad_input import refused, rewrite

WOREF = "vgd_coco/fix100/refcoco_unc"


@pytest.fixture
def place(tmp_path, world):
    return Workplace(tmp_path, world, "vgd")


@pytest.fixture
def data(place, tmp_path):
    """A copy of the world's grounding part that a test may damage, without what earlier runs kept."""
    folder = tmp_path / "data"
    for name in ("refs/refcoco", WOREF, "detfeat100_woref", "word_vectors"):
        shutil.copytree(place.data / name, folder / name, ignore=shutil.ignore_patterns("[tv]*.json"))
    place.data = folder
    return folder


def train(place, run, *flags):
    return run(place, *place.train_flags("x", *flags))


def refs_file(data, by="unc"):
    return data / f"refs/refcoco/refs({by}).p"


def change_refs(data, change):
    refs = pickle.loads(refs_file(data).read_bytes())
    change(refs)
    refs_file(data).write_bytes(pickle.dumps(refs, 2))


def change_instances(data, change):
    path = data / "refs/refcoco/instances.json"
    content = json.loads(path.read_text())
    change(content["annotations"])
    path.write_text(json.dumps(content))


def first_ref(data):
    return pickle.loads(refs_file(data).read_bytes())[0]


# Expressions


def test_missing_files_name_the_place(place, run, data, tmp_path):
    refused(train(place, run, f"--DATA_PATH={tmp_path}/nowhere"), "nowhere/refs/refcoco", "refs(unc).p")
    refs_file(data).unlink()
    refused(train(place, run), "instances.json and refs(unc).p")


def test_a_refs_file_of_another_split_by(place, run, data):
    refs_file(data).rename(refs_file(data, "google"))
    refused(train(place, run), "refs(unc).p", "refs(google).p is of another split-by")


def test_refs_with_the_splits_of_another_split_by(place, run, data):
    change_refs(data, lambda refs: [ref.update(split=ref["split"].rstrip("AB")) for ref in refs])
    refused(train(place, run), "refs(unc).p", "split 'test' is none of train, val, testA, testB", "split-by")


def test_an_annotation_id_that_the_instances_lack(place, run, data):
    number = first_ref(data)["ann_id"]
    change_instances(data, lambda notes: notes.remove(next(note for note in notes if note["id"] == number)))
    refused(train(place, run), f"annotation id {number}", "instances.json", "ref 0")


def test_a_zero_area_reference_box(place, run, data):
    number = first_ref(data)["ann_id"]

    def flatten(notes):
        note = next(note for note in notes if note["id"] == number)
        note["bbox"][3] = 0

    change_instances(data, flatten)
    refused(train(place, run), f"annotation {number}", "no area", "instances.json")


def test_a_pickle_that_asks_for_a_class(place, run, data):
    refs_file(data).write_bytes(pickle.dumps([ValueError("x")], 2))
    refused(train(place, run), "exceptions.ValueError", "nothing in it was run")


def test_truncated_refs(place, run, data):
    refs_file(data).write_bytes(refs_file(data).read_bytes()[:1000])
    refused(train(place, run), "refs(unc).p", "truncated")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"annotations": 3}', "\x00\x01"])
def test_malformed_instances(place, run, data, text):
    (data / "refs/refcoco/instances.json").write_text(text)
    refused(train(place, run), "instances.json")


def test_a_split_without_files_is_a_warning_in_training_and_an_error_in_scoring(place, run, data):
    for split in ("train", "val"):
        require_expressions(data, "refcoco", split)
    refs_file(data).unlink()
    done = train(place, run, "--MAX_EPOCH=1")
    assert done.code == 0 and "no expressions of testA, testB: the vocabulary differs" in done.output
    refused(run(place, "--RUN=test", "--VERSION=x"), "no expressions of testA", "refs(unc).p")


# Features


def test_missing_features_are_named_and_counted_before_training(place, run, data):
    images = sorted({each.image_id for each in require_expressions(data, "refcoco", "train")})[:3]
    for image in images:
        (data / WOREF / f"COCO_train2014_{image:012d}.jpg.npz").unlink()
    refused(train(place, run), f"image {images[0]} and 2 more", "--FEAT_PATH")
    assert not place.checkpoint("x", "epoch1.pkl").exists()


def test_a_folder_without_features(place, run, data):
    shutil.rmtree(data / "vgd_coco")
    refused(train(place, run), "no region features of refcoco (--FEAT=vg_woref)", WOREF)
    refused(train(place, run, "--DATASET=refcoco+", f"--DATA_PATH={data}"), "refs/refcoco+")


def test_features_of_the_other_kind(place, run, data):
    refused(train(place, run, f"--FEAT_PATH={data}/detfeat100_woref"), ".npz has no key x", "--FEAT=coco_mrcn")
    other = f"--FEAT_PATH={data}/{WOREF}"
    refused(train(place, run, "--FEAT=coco_mrcn", other), ".npz has no key fc7", "--FEAT=vg_woref")
    assert not place.checkpoint("x", "epoch1.pkl").exists()


def mask_rcnn(fc7, pool5):
    return {"fc7": fc7, "pool5": pool5}


FEATURE_FAULTS = {
    "no pool5": (lambda a, b: mask_rcnn(a, None), "no key pool5; extract"),
    "widths": (lambda a, b: mask_rcnn(a[:, :100], b), "fc7 is"),
    "rows": (lambda a, b: mask_rcnn(a[1:], b), "fc7 is"),
    "flat": (lambda a, b: mask_rcnn(a[0], b), "fc7 is"),
    "empty": (lambda a, b: mask_rcnn(a[:0], b[:0]), "no region"),
    "NaN": (lambda a, b: mask_rcnn(a, b * np.nan), "pool5 holds NaN"),
    "kind": (lambda a, b: mask_rcnn(a.astype(int), b), "fc7 is int64"),
}


@pytest.mark.parametrize("fault", FEATURE_FAULTS)
def test_damaged_mask_rcnn_features(place, run, data, fault):
    change, message = FEATURE_FAULTS[fault]
    path = data / f"detfeat100_woref/{first_ref(data)['image_id']}.npz"
    with np.load(path) as file:
        changes = change(file["fc7"], file["pool5"])
    rewrite(path, **changes)
    refused(train(place, run, "--FEAT=coco_mrcn"), path.name, message)


# Flags and checkpoints


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--DATASET=refcoco++", ("--DATASET=refcoco++", "refcoco+")),
        ("--FEAT=mrcn", ("--FEAT=mrcn", "coco_mrcn")),
        ("--SPLIT=testA", ("--SPLIT 'testA'", "train, train+val")),
        ("--LOSS=kl", ("--LOSS=kl", "kld")),
    ],
)
def test_unknown_values_name_the_valid_ones(grounded, run, flag, parts):
    refused(run(grounded, "--RUN=train", flag), *parts)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("data: {dataset: refcocog_umd}", "data.dataset 'refcocog_umd' is unknown; did you mean refcocog"),
        ("data: {feature_kind: woref}", "did you mean vg_woref"),
        ("training: {loss: bcd}", "training.loss 'bcd'"),
        ("model: {feature_size: 1024}", "model.feature_size 1024"),
    ],
)
def test_configuration_files(place, run, text, part):
    (place.folder / "small.yml").write_text(text)
    refused(train(place, run), part)


def checkpoint_flag(place):
    return f"--CKPT_PATH={place.checkpoint('base', 'epoch2.pkl')}"


@pytest.mark.parametrize(
    ("flag", "held"), [("--DATASET=refcocog", "refcoco"), ("--FEAT=coco_mrcn", "vg_woref"), ("--LOSS=bce", "kld")]
)
def test_flags_that_contradict_the_checkpoint(grounded, place, run, flag, held):
    refused(run(place, "--RUN=test", checkpoint_flag(grounded), flag), flag, "contradicts", f"trained with {held}")


def test_a_checkpoint_of_the_other_task(trained, grounded, place, run):
    refused(run(place, "--RUN=val", checkpoint_flag(trained)), "of the task vqa", "train_vqa.py")
    refused(run(trained, "--RUN=val", checkpoint_flag(grounded)), "of the task vgd", "train_vgd.py")


def test_released_weights_with_features_of_the_other_kind(grounded, place, run):
    path = place.folder / "released.pkl"
    torch.save({"state_dict": {"imgfeat_linear.weight": torch.zeros(64, 2048)}}, path)
    flags = [f"--CKPT_PATH={path}", "--VERSION=x", *place.settings, "--FEAT=coco_mrcn"]
    refused(run(place, "--RUN=val", *flags), "released.pkl", "2048 wide", "3072", "--FEAT")
