"""What a user can get wrong: each ends in one clear line, exit code 2, nothing overwritten."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.places import require_annotations, require_questions


@pytest.fixture
def data(place, tmp_path):
    """A copy of the world's VQA part that a test may damage."""
    folder = tmp_path / "data"
    for name in ("vqa", "coco_extract", "word_vectors"):
        shutil.copytree(place.data / name, folder / name)
    place.data = folder
    return folder


def refused(done, *parts):
    """Assert that a run was refused with one line that holds all of `parts`."""
    assert done.code == 2, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.output
    assert "Traceback" not in done.output
    for part in parts:
        assert part in lines[0], f"{part!r} not in {lines[0]!r}"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first_feature_file(data, split="train2014"):
    return sorted((data / "coco_extract" / split).glob("*.npz"))[0]


def rewrite(path, **changes):
    """Write an npz again with some keys changed; None removes one."""
    with np.load(path) as file:
        arrays = dict(file)
    arrays.update(changes)
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


def test_missing_files_name_the_places(place, run, tmp_path):
    flags = place.train_flags("x")
    refused(run(place, *flags, f"--DATA_PATH={tmp_path}/nowhere"), "nowhere")


@pytest.mark.parametrize("find", [require_questions, require_annotations])
def test_a_missing_question_or_annotation_file(place, run, data, find):
    path = find(data, "train")
    path.unlink()
    refused(run(place, *place.train_flags("x")), path.name)


def test_missing_files_of_the_training_split_are_all_named(place, run, data):
    paths = (
        require_annotations(data, "train"),
        require_questions(data, "vg"),
        require_annotations(data, "vg"),
    )
    for path in paths:
        path.unlink()
    flags = [flag for flag in place.train_flags("x") if not flag.startswith("--SPLIT")]
    refused(run(place, *flags), *(path.name for path in paths))


def test_a_missing_file_of_another_split_is_a_warning(place, run, data):
    require_questions(data, "test").unlink()
    done = run(place, *place.train_flags("x", "--MAX_EPOCH=1"))
    assert done.code == 0
    assert "no questions of test: the vocabulary differs" in done.output


def test_missing_features_are_named_and_counted_before_training(place, run, data):
    paths = sorted((data / "coco_extract" / "train2014").glob("*.npz"))[:3]
    for path in paths:
        path.unlink()
    image = str(int(paths[0].name.split("_")[-1].split(".")[0]))
    refused(run(place, *place.train_flags("x")), f"image {image} and 2 more", "--FEAT_PATH")
    assert not place.checkpoint("x", "epoch1.pkl").exists()


def regions(path):
    with np.load(path) as file:
        return file["x"], file["bbox"]


FEATURE_FAULTS = {
    "no x": (lambda x, b: {"x": None}, "no key x"),
    "no bbox": (lambda x, b: {"bbox": None}, "no key bbox"),
    "no height": (lambda x, b: {"image_h": None}, "no key image_h"),
    "wrong width": (lambda x, b: {"x": x[:100]}, "expected floats (2048, K)"),
    "NaN": (lambda x, b: {"x": np.where(np.arange(x.shape[1]) == 2, np.nan, x)}, "NaN"),
    "no region": (lambda x, b: {"x": x[:, :0], "bbox": b[:0]}, "no region"),
    "fewer boxes": (lambda x, b: {"bbox": b[1:]}, "bbox is"),
    "outside": (lambda x, b: {"bbox": b + 5000}, "outside"),
    "inverted": (lambda x, b: {"bbox": b[:, [2, 3, 0, 1]]}, "inverted"),
    "NaN box": (lambda x, b: {"bbox": b * np.nan}, "outside"),
}


@pytest.mark.parametrize("fault", FEATURE_FAULTS)
@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_features(place, run, data, fault, workers):
    if workers and fault != "NaN":
        return  # one fault shows that a worker's error stays one line
    change, message = FEATURE_FAULTS[fault]
    path = first_feature_file(data)
    rewrite(path, **change(*regions(path)))
    refused(run(place, *place.train_flags("x"), f"--NW={workers}"), path.name, message)


def test_truncated_features(place, run, data):
    path = first_feature_file(data)
    path.write_bytes(path.read_bytes()[:1000])
    refused(run(place, *place.train_flags("x")), path.name, "truncated")


@pytest.mark.parametrize("text", ["", "{", "[1, 2", '{"questions": [}', "\x00\x01"])
def test_malformed_json(place, run, data, text):
    path = require_questions(data, "train")
    path.write_text(text)
    refused(run(place, *place.train_flags("x")), path.name)


def test_question_without_annotation_and_the_reverse(place, run, data):
    path = require_annotations(data, "train")
    edit(path, lambda content: content["annotations"].pop(3))
    refused(run(place, *place.train_flags("x")), path.name, "question")
    questions = require_questions(data, "train")
    edit(questions, lambda content: (content["questions"].pop(3), content["questions"].pop(7)))
    refused(run(place, *place.train_flags("x")), questions.name)


def test_an_empty_answer_list(place, run, data):
    path = require_annotations(data, "train")
    edit(path, lambda content: content["annotations"][5].update(answers=[]))
    refused(run(place, *place.train_flags("x")), path.name, "answers")


GENOTYPE_FAULTS = {
    "missing": (None, "not found"),
    "malformed": ("{", "not valid JSON"),
    "unknown": ('{"epoch0": {"enc": [["self_atl"]], "dec": [["feed_forward"]]}}', "self_atl"),
    "relation": ('{"epoch0": {"enc": [["rel_self_att_64"]], "dec": [["feed_forward"]]}}', "rel_self_att_64"),
    "empty": ('{"epoch0": {"enc": [], "dec": []}}', "enc has no blocks"),
    "shape": ('{"epoch0": [1]}', "epoch0 must be a mapping of keys to values, not [1]"),
}


@pytest.mark.parametrize("fault", GENOTYPE_FAULTS)
def test_genotypes(place, run, fault):
    text, message = GENOTYPE_FAULTS[fault]
    path = place.folder / "small.json"
    path.unlink() if text is None else path.write_text(text)
    refused(run(place, *place.train_flags("x")), "small.json", message)


def test_an_epoch_that_the_genotype_file_lacks(place, run):
    refused(run(place, *place.train_flags("x"), "--ARCH_EPOCH=7"), "epoch7", "--GENO_EPOCH", "0")


def test_no_word_vectors(place, run, data):
    shutil.rmtree(data / "word_vectors")
    refused(run(place, *place.train_flags("x")), "--WORD_VECTORS")
    refused(run(place, *place.train_flags("x"), "--WORD_VECTORS=/nowhere/glove.txt"), "glove.txt")


def test_a_gpu_that_does_not_exist(place, run):
    flags = [flag for flag in place.train_flags("x") if not flag.startswith("--GPU")]
    refused(run(place, *flags, "--GPU=63"), "--GPU='63'", "--GPU=cpu")


def checkpoint_flag(trained):
    return f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}"


@pytest.mark.parametrize(
    ("flag", "held"),
    [
        ("--MODEL=small", "tiny"),
        ("--SPLIT=train+val", "train"),
        ("--SEED=5", "0"),
        ("--MAX_EPOCH=9", "2"),
        ("--PRECISION=bf16", "fp32"),
    ],
)
def test_flags_that_contradict_the_checkpoint(trained, place, run, flag, held):
    done = run(place, "--RUN=val", checkpoint_flag(trained), flag)
    refused(done, flag, "contradicts", "epoch2.pkl", f"trained with {held}")


def test_a_genotype_that_contradicts_the_checkpoint(trained, place, run):
    (place.folder / "other.json").write_text('{"epoch0": {"enc": [["feed_forward"]], "dec": [["feed_forward"]]}}')
    refused(
        run(place, "--RUN=val", checkpoint_flag(trained), "--GENO_PATH=other.json"), "--GENO_PATH", "contradicts"
    )
    same = f"--GENO_PATH={place.folder}/small.json"
    assert run(place, "--RUN=val", checkpoint_flag(trained), same).code == 0


def altered(trained, place, **changes):
    """Write the trained checkpoint with some entries changed; return the flag that names it."""
    values = torch.load(trained.checkpoint("base", "epoch2.pkl"), weights_only=True)
    values.update(changes)
    torch.save(values, place.folder / "altered.pkl")
    return f"--CKPT_PATH={place.folder}/altered.pkl"


def test_checkpoint_missing_or_damaged(trained, place, run):
    refused(run(place, "--RUN=val", "--CKPT_PATH=none.pkl"), "none.pkl", "not found")
    refused(run(place, "--RUN=val", "--VERSION=never"), "ckpt_never", "--CKPT_PATH")
    refused(run(place, "--RUN=val"), "--VERSION", "--CKPT_PATH")
    whole = trained.checkpoint("base", "epoch2.pkl").read_bytes()
    for size in (0, 10, 5000, len(whole) // 2, len(whole) - 10):
        (place.folder / "cut.pkl").write_bytes(whole[:size])
        refused(run(place, "--RUN=val", "--CKPT_PATH=cut.pkl"), "cut.pkl")
    torch.save({"weights": 1}, place.folder / "odd.pkl")
    refused(run(place, "--RUN=val", "--CKPT_PATH=odd.pkl"), "odd.pkl", "neither")


def test_checkpoint_of_another_task_or_size(trained, place, run):
    config = torch.load(trained.checkpoint("base", "epoch2.pkl"), weights_only=True)["config"]
    refused(run(place, "--RUN=val", altered(trained, place, config={**config, "task": "vgd"})), "train_vgd.py")
    model = {**config["model"], "hidden_size": 128}
    flag = altered(trained, place, config={**config, "model": model})
    refused(run(place, "--RUN=val", flag), "altered.pkl", "--MODEL")


def test_checkpoint_with_a_vocabulary_that_does_not_fit(trained, place, run):
    values = torch.load(trained.checkpoint("base", "epoch2.pkl"), weights_only=True)["vocabularies"]
    fewer = {**values, "tokens": values["tokens"][:-1]}
    refused(run(place, "--RUN=val", altered(trained, place, vocabularies=fewer)), "words")
    fewer = {**values, "answers": values["answers"][:-1]}
    refused(run(place, "--RUN=val", altered(trained, place, vocabularies=fewer)), "answers")
    refused(run(place, "--RUN=val", altered(trained, place, vocabularies={"tokens": []})), "vocabularies")


def test_configuration_files(place, run):
    path = place.folder / "small.yml"
    for text, parts in {
        "training: {base_lrr: 1}": ("base_lrr", "base_lr"),
        "training: {epochs: many}": ("training.epochs", "an integer"),
        "training: [1, 2": ("small.yml", "not valid YAML"),
        "trainings: {}": ("trainings", "did you mean training"),
        "training: {base_lr: -1}": ("training.base_lr", "above 0.0"),
        "3": ("section",),
    }.items():
        path.write_text(text)
        refused(run(place, *place.train_flags("x")), *parts)
    path.unlink()
    refused(run(place, *place.train_flags("x")), "--CFG", "small.yml")


def test_more_parts_than_samples(place, run):
    refused(run(place, *place.train_flags("x"), "--BS=4", "--ACCU=8"), "--ACCU", "--BS")


def test_nan_in_the_loss_names_epoch_and_step(place, run):
    (place.folder / "small.yml").write_text(
        (place.folder / "small.yml").read_text().replace("base_lr: 1.0e-3", "base_lr: 1.0e+30")
    )
    refused(run(place, *place.train_flags("x")), "not finite", "epoch 1", "step")
