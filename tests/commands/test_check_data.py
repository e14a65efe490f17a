"""`python -m mmnas check-data`: what it finds in whole worlds, in tiny ones worked out by hand, in broken ones."""

import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from mmnas.__main__ import main
from mmnas.data.scan_precomp import captions_path
from mmnas.data.store_writer import pack
from mmnas.engine.loading import SAMPLES, look_at
from mmnas.errors import DataError
from tests.places import require_annotations, require_questions

WORDS = "word_vectors"
PARTS = {
    "vqa": ("vqa", "coco_extract"),
    "vgd": ("refs", "vgd_coco/fix100/refcoco_unc", "detfeat100_woref"),
    "itm": ("itm", "flickr_rois_resnet101_fix36"),
}


@dataclass
class Report:
    code: int
    text: str

    def of(self, kind):
        return [line.removeprefix(f"{kind}: ") for line in self.text.splitlines() if line.startswith(f"{kind}: ")]


@pytest.fixture
def check(monkeypatch, tmp_path, capsys):
    def call(task, data, *flags):
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        code = main(["check-data", task, f"--DATA_PATH={data}", *flags])
        return Report(code, "".join(capsys.readouterr()))

    return call


@pytest.fixture
def copy(world, tmp_path):
    """Copy what a task reads of the world, for a test to damage."""

    def make(task):
        for part in (*PARTS[task], WORDS):
            shutil.copytree(world / part, tmp_path / "data" / part)
        for kept in (tmp_path / "data").glob("refs/*/[!i]*.json"):  # by another test, of the same originals
            kept.unlink()
        return tmp_path / "data"

    return make


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first_features(data, folder):
    return sorted((data / folder).glob("*.npz"))[0]


# Whole worlds


@pytest.mark.parametrize(
    ("task", "flags", "parts"),
    [
        ("vqa", [], ["576 questions of train", "24 images of vg, 0 without features", "(published: 3129)"]),
        ("vqa", ["--SPLIT=train"], ["8 images of test, 0 without features"]),
        ("vgd", [], ["expressions of testB (published: 5095)", "24 to 24 regions"]),
        ("vgd", ["--DATASET=refcocog", "--FEAT=coco_mrcn"], ["20 to 20 regions", "a region to learn (0.00 %)"]),
        ("itm", [], ["4 images of dev, 5 captions each", "12 images of test, 5 captions each (published: 1000)"]),
        ("itm", ["--DATASET=coco"], ["images of testall, 5 captions each (published: 5000)"]),
    ],
)  # fmt: skip
def test_a_whole_world_is_ready(check, world, task, flags, parts):
    report = check(task, world, *flags)
    assert report.code == 0, report.text
    assert report.of("fault") == [] and "missing" not in report.text
    assert all("published" in warning for warning in report.of("warning"))  # counts and regions of a small world
    assert report.of("verdict")[0].startswith("ready to train: no faults")
    for part in (*parts, " 0 damaged", "words in the vocabulary", "without a vector"):
        assert part in report.text, report.text


def test_full_reads_every_image_and_else_some(check, world):
    assert "40 of 40 images read" in check("vqa", world, "--full").text
    assert "20 of 40 images read" in check("vqa", world).text  # every second, at most 32


def test_a_feature_store_is_checked_in_place_of_folders(check, world, tmp_path):
    store = tmp_path / "store.features"
    pack([world / "coco_extract" / folder for folder in ("train2014", "val2014")], store)
    report = check("vqa", world, f"--FEAT_PATH={store}", "--full")
    assert report.code == 0, report.text
    assert f"in {store}" in report.text and "32 of 32 images read, 0 damaged" in report.text
    assert "8 images of test, 8 without features" in report.text


# Worked out by hand


def tiny_vqa(data, answers, annotators=10):
    """Write train and val of VQA on one image, a question for each answer, all annotators agreeing."""
    (data / "vqa").mkdir(parents=True)
    for split, given in answers.items():
        ids = [{"question_id": number, "image_id": 7} for number in range(len(given))]
        questions = {"questions": [{**each, "question": "what color?"} for each in ids]}
        notes = [
            {**each, "multiple_choice_answer": answer, "answers": [{"answer": answer}] * annotators}
            for each, answer in zip(ids, given, strict=True)
        ]
        (data / "vqa" / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps(questions))
        (data / "vqa" / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps({"annotations": notes}))
    folder = data / "coco_extract" / "val2014"
    folder.mkdir(parents=True)
    arrays = {
        "x": np.ones((2048, 3), np.float32),
        "bbox": np.array([[0, 0, 9, 9]] * 3),
        "image_h": 10,
        "image_w": 10,
    }
    np.savez(folder / "COCO_val2014_000000000007.jpg.npz", **arrays)


def test_counts_by_hand(check, world, tmp_path):
    tiny_vqa(tmp_path / "d", {"train2014": ["red", "red", "blue", "Red"], "val2014": ["red", "green", "green"]})
    (tmp_path / "own.yml").write_text(
        "data: {answer_min_count: 2}"
    )  # red 4 times is an answer, green twice is none
    flags = ["--SPLIT=train", f"--WORD_VECTORS={world / WORDS}"]
    report = check("vqa", tmp_path / "d", *flags, "--CFG=own.yml")
    assert report.code == 0, report.text
    for part in (
        "4 questions of train", "5 words in the vocabulary", "0 of 2 words without a vector (0.00 %)", "1 answers",
        "1 of 4 questions of train with an empty target (25.00 %)",
        "2 of 3 questions of val with an empty target (66.67 %)",
        "1 images of train, 0 without", "1 of 1 images read, 0 damaged", "3 to 3 regions, mean 3.0",
        f"missing  {tmp_path / 'd' / 'coco_extract' / 'train2014'}",
    ):  # fmt: skip
        assert part in report.text, report.text
    warnings = " | ".join(report.of("warning"))
    for part in ("questions of test not found", "questions of vg not found", "annotations of vg not found",
                 "1 answers, published 3129", "3 to 3 regions, the published ones 10 to 100"):  # fmt: skip
        assert part in warnings


@pytest.mark.parametrize(("annotators", "flags"), [(1, []), (9, []), (10, []), (1, ["--METRIC=exact"])])
def test_questions_with_fewer_than_ten_answers_are_a_warning(check, world, tmp_path, annotators, flags):
    tiny_vqa(tmp_path / "d", {"train2014": ["red"] * 9, "val2014": ["red", "green"]}, annotators)
    report = check("vqa", tmp_path / "d", "--SPLIT=train", f"--WORD_VECTORS={world / WORDS}", *flags)
    assert report.code == 0, report.text
    told = [line for line in report.of("warning") if "have fewer than ten answers" in line]
    expected = [] if flags or annotators == 10 else ["9 of 9 questions of train", "2 of 2 questions of val"]
    assert [line.split(" have")[0] for line in told] == expected
    assert all("--METRIC=exact" in line for line in told)


# Broken worlds: what is done to the data, and the one line that says so


def without(find, split):
    return lambda data: find(data, split).unlink()


def one_annotation_less(data):
    edit(require_annotations(data, "val"), lambda content: content["annotations"].pop())


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def nan(path):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "x": arrays["x"] * np.nan})


VQA_FAULTS = {
    "questions of train missing": (without(require_questions, "train"), "questions of train not found: put them"),
    "annotations of val missing": (without(require_annotations, "val"), "annotations of val not found: put them"),
    "annotations of vg missing": (without(require_annotations, "vg"), "annotations of vg not found: put them"),
    "annotations cut": (lambda data: cut_in_half(require_annotations(data, "train")), "is not valid JSON"),
    "test questions cut": (lambda data: cut_in_half(require_questions(data, "test")), "is not valid JSON"),
    "no pair": (one_annotation_less, "is in the questions file only (1 such in all)"),
    "image missing": (lambda data: first_features(data, "coco_extract/val2014").unlink(), "no region features for"),
    "features cut": (lambda data: cut_in_half(first_features(data, "coco_extract/test2015")), "damaged or trunc"),
    "features NaN": (lambda data: nan(first_features(data, "coco_extract/train2014")), "x holds NaN"),
    "no features": (lambda data: shutil.rmtree(data / "coco_extract"), "no region features found: put the folders"),
}  # fmt: skip


@pytest.mark.parametrize("fault", VQA_FAULTS)
def test_each_fault_of_vqa_is_one_line(check, copy, fault):
    data = copy("vqa")
    change, message = VQA_FAULTS[fault]
    change(data)
    report = check("vqa", data, "--full")
    assert report.code == 1
    (line,) = report.of("fault")
    assert message in line
    assert report.of("verdict")[0].startswith("NOT ready to train: 1 fault, ")


def test_the_report_goes_on_and_lists_every_fault(check, copy):
    data = copy("vqa")
    for change, _ in (VQA_FAULTS[name] for name in ("annotations cut", "annotations of vg missing", "no pair")):
        change(data)
    for path in sorted((data / "coco_extract/train2014").glob("*.npz"))[:3]:
        nan(path)
    report = check("vqa", data, "--full", "--WORD_VECTORS=nowhere")
    assert report.code == 1
    faults = report.of("fault")
    assert len(faults) == 7 and sum("x holds NaN" in fault for fault in faults) == 3
    assert any("word vectors: nowhere is not an installed package" in fault for fault in faults)
    assert "3 damaged" in report.text and "7 faults" in report.of("verdict")[0]


@pytest.mark.parametrize(("find", "split"), [(require_questions, "test"), (require_questions, "vg")])
def test_what_training_does_without_is_a_warning(check, copy, find, split):
    data = copy("vqa")
    find(data, split).unlink()
    report = check("vqa", data, "--SPLIT=train")
    assert report.code == 0
    assert any(f"questions of {split} not found" in warning for warning in report.of("warning"))


def test_images_of_test_without_features_are_a_warning(check, copy):
    data = copy("vqa")
    shutil.rmtree(data / "coco_extract/test2015")
    report = check("vqa", data)
    assert report.code == 0
    assert "8 images of test, 8 without features" in report.text
    assert any("and 7 more images of the test" in warning for warning in report.of("warning"))


def test_no_answer_that_is_frequent_enough(check, world, tmp_path):
    (tmp_path / "own.yml").write_text("data: {answer_min_count: 100000}")
    report = check("vqa", world, "--CFG=own.yml")
    assert report.code == 1
    assert report.of("fault")[0].startswith("no answer occurs more than 100000 times")


# Grounding


def test_what_is_kept_of_the_originals_is_enough(check, copy):
    data = copy("vgd")
    assert check("vgd", data).code == 0
    for name in ("instances.json", "refs(unc).p"):
        (data / "refs/refcoco" / name).unlink()
    assert check("vgd", data).code == 0
    (data / "refs/refcoco/testA.json").unlink()
    report = check("vgd", data)
    assert report.code == 0
    assert any("no expressions of testA" in warning for warning in report.of("warning"))
    (data / "refs/refcoco/val.json").unlink()
    report = check("vgd", data)
    assert report.code == 1
    assert [fault[:24] for fault in report.of("fault")] == ["no expressions of val in"]


def test_a_missing_original_is_one_fault_and_the_features_are_looked_for(check, copy):
    data = copy("vgd")
    (data / "refs/refcoco/instances.json").unlink()
    shutil.rmtree(data / "vgd_coco")
    report = check("vgd", data)
    assert report.code == 1
    assert f"missing  {data / 'refs/refcoco/instances.json'}" in report.text
    assert [fault.split(" of ")[0] for fault in report.of("fault")] == ["no expressions", "no region features"]


def test_boxes_of_other_images(check, copy):
    data = copy("vgd")

    def shrink(content):
        for annotation in content["annotations"]:
            annotation["bbox"] = [0.0, 0.0, 1.0, 1.0]

    edit(data / "refs/refcoco/instances.json", shrink)
    report = check("vgd", data)
    assert report.code == 1
    assert "without a region to learn (100.00 %)" in report.text
    assert report.of("fault")[0].startswith("no region meets any expression")


def test_features_of_the_other_kind(check, world):
    report = check("vgd", world, "--FEAT=coco_mrcn", f"--FEAT_PATH={world / 'vgd_coco/fix100/refcoco_unc'}")
    assert report.code == 1
    assert "has no key fc7" in report.of("fault")[0]


# Matching


@pytest.mark.parametrize(
    ("split", "change", "kind", "message"),
    [
        ("train", lambda path: path.unlink(), "fault", "train_caps.txt"),
        ("dev", lambda path: path.write_text("one\ntwo\n"), "fault", "dev_caps.txt 2: expected five captions"),
        ("test", lambda path: path.write_bytes(b"\xff\n" * 60), "fault", "is not UTF-8 text"),
        ("test", lambda path: (path.unlink(), path.with_name("test_ids.txt").unlink()), "warning", "test_caps.txt"),
    ],
)
def test_captions(check, copy, split, change, kind, message):
    data = copy("itm")
    change(captions_path(data, "flickr", split))
    report = check("itm", data)
    assert report.code == (kind == "fault")
    assert any(message in line for line in report.of(kind)), report.text


def test_the_index_of_flickr_is_needed(check, copy):
    data = copy("itm")
    (data / "itm/dataset_flickr30k.json").unlink()
    report = check("itm", data)
    assert report.code == 1
    assert report.of("fault")[0].startswith("Flickr30K's index not found")


# The command


@pytest.mark.parametrize(
    ("task", "flag", "message"),
    [
        ("vqa", "--FEAT=coco_mrcn", "unknown flag --FEAT=coco_mrcn"),
        ("vgd", "--DATASET=refcocoo", "did you mean refcoco"),
        ("itm", "--SPLIT=val", "--SPLIT 'val' is unknown"),
    ],
)
def test_flags_are_those_of_the_script(check, world, task, flag, message):
    report = check(task, world, flag)
    assert report.code == 2
    assert message in report.text and report.text.startswith("error: ")


# Before training


class Samples:
    """A data set of as many samples as asked; the sample `damaged` cannot be read."""

    def __init__(self, size, damaged=None):
        self.size, self.damaged, self.read = size, damaged, []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.read.append(index)
        if index == self.damaged:
            raise DataError(f"sample {index} is damaged")
        regions = np.zeros((10 + index % 7, 4), np.float32)
        return {"features": regions, "boxes": regions, "tokens": np.ones(3 + index % 2, np.int64)}


def test_some_samples_from_first_to_last_are_read_before_training(caplog):
    caplog.set_level("INFO", "mmnas")
    dataset = Samples(1000)
    look_at(dataset)
    assert len(dataset.read) == SAMPLES and (dataset.read[0], dataset.read[-1]) == (0, 999)
    assert caplog.messages == ["16 of 1000 training samples read: 10 to 15 regions, 3 to 4 tokens"]
    look_at(one := Samples(1))
    assert one.read == [0]
    with pytest.raises(DataError, match="sample 999 is damaged"):
        look_at(Samples(1000, damaged=999))
