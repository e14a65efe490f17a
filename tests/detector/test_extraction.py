"""Extraction from the command line: what is written, skipped, refused and listed."""

import json
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from mmnas.__main__ import main
from mmnas.data import store_writer
from mmnas.data.features import NpzFolders, read_npz
from mmnas.data.made_by import Choice, MadeBy
from mmnas.data.store import FeatureStore
from mmnas.data.store_writer import verify
from mmnas.detector import extraction
from mmnas.detector.extraction import Outcome, parse_devices, read_boxes
from mmnas.detector.regions import DetectedRegions, describe_given
from mmnas.detector.weights import DetectorWeights
from mmnas.errors import ConfigError, DataError

NAMES = ["COCO_val2014_000000000042.jpg", "COCO_val2014_000000000043.jpg", "COCO_val2014_000000000044.jpg"]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "val2014"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(folder / name)
    return folder


def few_regions(network, image, choice):
    count = choice.least
    corner = np.arange(count, dtype=np.float32)[:, None]
    ids, half = np.arange(count) + 1, np.full(count, 0.5, np.float32)
    return DetectedRegions(
        np.full((count, 2048), image.mean(), np.float32),
        np.concatenate([corner, corner, corner + 3, corner + 3], axis=1),
        np.array(image.shape[:2], np.float32),
        {"objects_id": ids, "objects_conf": half, "attrs_id": ids, "attrs_conf": half},
    )


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The command line with a detector that gives made-up regions; returns what calls it with more arguments."""
    monkeypatch.setattr(extraction, "read_weights", lambda path: DetectorWeights({}, torch.zeros(12, 4), path.name))
    monkeypatch.setattr(extraction.Detector, "from_weights", lambda *_: torch.nn.Identity())
    monkeypatch.setattr(extraction, "detect", few_regions)

    def call(*arguments, detector="k36.pth"):
        return main(["extract-features", *map(str, arguments), f"--detector={detector}"])

    return call


def test_one_file_for_each_image_as_training_reads_it(quick, pictures, tmp_path, capsys):
    assert quick(pictures, tmp_path / "out", "--boxes=36") == 0
    assert "3 images extracted" in capsys.readouterr().out
    source = NpzFolders([tmp_path / "out"], 2048)
    assert len(source) == 3 and 43 in source
    regions = source[43]
    assert regions.features.shape == (36, 2048) and regions.image_size.tolist() == [40, 60]
    with np.load(tmp_path / "out" / f"{NAMES[0]}.npz", allow_pickle=False) as arrays:
        assert arrays["num_bbox"] == 36 and arrays["objects_id"].tolist() == list(range(1, 37))
        assert {"objects_conf", "attrs_id", "attrs_conf", "bbox", "image_h", "image_w", "x"} < set(arrays)
        settings = json.loads(str(arrays["detector"]))
    assert settings["detector"] == "k36.pth"
    assert settings["choice"] == {"least": 36, "most": 36, "threshold": 0.2}
    assert json.loads((tmp_path / "out" / "detector.json").read_text()) == settings


def test_what_is_there_is_skipped(quick, pictures, tmp_path, capsys):
    assert quick(pictures / NAMES[0], tmp_path / "out") == 0
    before = (tmp_path / "out" / f"{NAMES[0]}.npz").stat().st_mtime_ns
    assert quick(f"{pictures}/*.jpg", tmp_path / "out") == 0
    assert "2 images extracted" in (output := capsys.readouterr().out) and "1 were there" in output
    assert (tmp_path / "out" / f"{NAMES[0]}.npz").stat().st_mtime_ns == before


def test_a_run_that_breaks_off_goes_on(quick, pictures, tmp_path, monkeypatch, capsys):
    def stop(network, image, choice):
        if (tmp_path / "out" / f"{NAMES[0]}.npz").exists():
            raise KeyboardInterrupt
        return few_regions(network, image, choice)

    monkeypatch.setattr(extraction, "detect", stop)
    assert quick(pictures, tmp_path / "out") == 130
    monkeypatch.setattr(extraction, "detect", few_regions)
    assert quick(pictures, tmp_path / "out") == 0
    assert "2 images extracted" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob(".*"))


def test_straight_into_a_store(quick, pictures, tmp_path, capsys):
    out = tmp_path / "vqa.features"
    (pictures / "cat.jpg").write_bytes((pictures / NAMES[0]).read_bytes())
    assert quick(pictures / NAMES[0], pictures / "cat.jpg", out) == 0
    assert "needs an image number" in capsys.readouterr().err
    assert quick(pictures, out) == 0
    assert "2 images extracted" in capsys.readouterr().out
    store = FeatureStore(out)
    assert store.image_ids.tolist() == [42, 43, 44] and verify(out).finished
    assert np.asarray(store[43].features).shape == (10, 2048)
    assert store.made_by == MadeBy("k36.pth", Choice(10, 100, 0.2), "float32")
    assert quick(pictures, out, "--boxes=36") == 2
    assert "must not be mixed" in capsys.readouterr().err
    assert quick(pictures, out, "--device=cpu,cpu") == 2


def test_an_interrupted_store_goes_on(quick, pictures, tmp_path, monkeypatch, capsys):
    def stop(network, image, choice):
        calls.append(image)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return few_regions(network, image, choice)

    calls = []
    monkeypatch.setattr(extraction, "detect", stop)
    assert quick(pictures, tmp_path / "a.features") == 130
    with pytest.raises(DataError, match="unfinished .1 images"):
        FeatureStore(tmp_path / "a.features")
    assert quick(pictures, tmp_path / "a.features") == 0
    assert "2 images extracted" in capsys.readouterr().out
    assert len(FeatureStore(tmp_path / "a.features")) == 3


def test_unreadable_images_are_listed_and_stop_nothing(quick, pictures, tmp_path, capsys):
    (pictures / NAMES[1]).write_bytes(b"no image")
    assert quick(pictures, tmp_path / "absent.jpg", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "2 images extracted" in printed.out and "2 cannot be read" in printed.out
    lines = [line for line in printed.err.splitlines() if line.startswith("not extracted:")]
    assert [name in line for name, line in zip([NAMES[1], "absent.jpg"], lines, strict=True)] == [True, True]


def test_what_file_systems_cannot_take_or_reach_is_listed(quick, pictures, tmp_path, capsys):
    """A name that is too long for that of its features, a link that leads nowhere or back, and a pipe."""
    (pictures / f"{'x' * 246}.jpg").write_bytes((pictures / NAMES[0]).read_bytes())
    (pictures / "nowhere.jpg").symlink_to(tmp_path / "absent")
    (pictures / "loop.jpg").symlink_to(pictures / "loop.jpg")
    os.mkfifo(pictures / "pipe.jpg")
    assert quick(pictures, pictures / "loop.jpg", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "3 images extracted" in printed.out and "4 cannot be read" in printed.out
    for reason in ("shorten it", "No such file", "symbolic links", "not a regular file"):
        assert printed.err.count(reason) == 1


def test_a_store_counts_what_it_holds_every_minute(quick, pictures, tmp_path, monkeypatch):
    """A killed run loses no more than that."""

    def seen(network, image, choice):
        counts.append(json.loads((tmp_path / "a.features" / "store.json").read_text())["images"])
        return few_regions(network, image, choice)

    counts = []
    monkeypatch.setattr(extraction, "detect", seen)
    monkeypatch.setattr(store_writer, "_COMMIT_SECONDS", 0)
    assert quick(pictures, tmp_path / "a.features") == 0
    assert counts == [0, 1, 2]


def test_other_settings_do_not_mix(quick, pictures, tmp_path, capsys):
    assert quick(pictures, tmp_path / "out") == 0
    assert quick(pictures, tmp_path / "out", detector="other.pth") == 2
    assert quick(pictures, tmp_path / "out", "--boxes=36") == 2
    assert capsys.readouterr().err.count("must not be mixed") == 2
    (tmp_path / "out" / "detector.json").unlink()
    assert quick(pictures, tmp_path / "out") == 2
    assert "unknown detector" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--boxes=0", "--boxes=0 must be"), ("--boxes=100-10", "--boxes"), ("--boxes=10-301", "--boxes"),
        ("--boxes=many", "--boxes"), ("--threshold=2", "--threshold=2.0"), ("--threshold=nan", "--threshold=nan"),
        ("--device=tpu9", "--device=tpu9"), ("--device=cuda:99", "--device=cuda:99"), ("--device=meta", "--device"),
        ("--given-boxes=nowhere", "nowhere is not a folder"), ("--device=cuda:٣", "--device=cuda"),
    ],
)  # fmt: skip
def test_wrong_flags(flag, message, quick, pictures, tmp_path, capsys):
    assert quick(pictures, tmp_path / "out", flag) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_no_detector_and_no_folder(pictures, tmp_path, capsys):
    assert main(["extract-features", str(pictures), str(tmp_path / "out"), f"--detector={tmp_path}/no.pth"]) == 2
    (tmp_path / "file").write_bytes(b"")
    assert main(["extract-features", str(pictures), str(tmp_path / "file"), "--detector=no.pth"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "detector not found" in first and "must be a folder" in second


def test_devices():
    assert parse_devices("cpu, cpu") == [torch.device("cpu")] * 2
    with pytest.raises(ConfigError):
        parse_devices("")


def test_features_unlike_the_published_ones_are_warned_of():
    usual = Outcome(sums=np.array([1000, 700.0, 300]))
    assert usual.unusual() is None and Outcome().unusual() is None
    assert "mean of 0.01" in Outcome(sums=np.array([1000, 10.0, 300])).unusual()
    usual.add(Outcome(written=2, unreadable=["a"], sums=np.array([1000, 100.0, 990])))
    assert usual.written == 2 and usual.unreadable == ["a"] and "64% zeros" in usual.unusual()


BOXES = np.array([[0, 0, 59, 39]], np.float32)
HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**9}, 4), }}".encode().ljust(118)
)


@pytest.mark.parametrize("content", [b"no archive", HUGE, bytes(10**8)])
def test_given_boxes_of_strangers_are_one_line(content, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.jpg.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bbox.npy", content)
    with pytest.raises(DataError, match=r"a\.jpg\.npz is damaged or truncated"):
        read_boxes(tmp_path, tmp_path / "a.jpg", (40, 60, 3))


def test_given_boxes_are_read(tmp_path):
    np.savez(tmp_path / "a.jpg.npz", bbox=BOXES)
    assert read_boxes(tmp_path, tmp_path / "a.jpg", (40, 60, 3)).tolist() == BOXES.tolist()


# With the real network


def test_given_boxes_and_two_processes(pictures, tmp_path, weights_file, network, capsys):
    """Two processes, whose images have one given box each; of the third, there is no box."""
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    for name in (f"{NAMES[0]}.npz", f"{NAMES[1][:-4]}.npz"):  # the image's name, or its stem
        np.savez(boxes / name, bbox=np.array([[0, 0, 59, 39], [10, 10, 30, 20]], np.float32))
    np.savez(boxes / f"{NAMES[2]}.npz", bbox=np.array([[0, 0, 599, 39]], np.float32))
    flags = [f"--detector={weights_file}", f"--given-boxes={boxes}", "--device=cpu,cpu"]
    assert main(["extract-features", str(pictures), str(tmp_path / "out"), *flags]) == 0
    printed = capsys.readouterr()
    assert "2 images extracted" in printed.out and "lies outside the 60 x 40 image" in printed.err
    regions = read_npz(tmp_path / "out" / f"{NAMES[1]}.npz", 2048)
    image = np.asarray(Image.open(pictures / NAMES[1]))[..., ::-1]
    expected = describe_given(network, np.ascontiguousarray(image), regions.boxes)
    assert regions.boxes.tolist() == [[0, 0, 59, 39], [10, 10, 30, 20]]
    assert regions.features == pytest.approx(expected.features, abs=1e-5)


def test_converting_from_the_command_line(caffemodel, weights_file, tmp_path, capsys):
    out = tmp_path / "detector.safetensors"
    assert main(["convert-detector", str(caffemodel), str(out)]) == 0
    assert out.read_bytes() == weights_file.read_bytes()
    assert "52437722 weights" in capsys.readouterr().out
    assert main(["convert-detector", str(caffemodel), str(tmp_path / "detector.pth")]) == 2
    assert main(["convert-detector", str(out), str(out)]) == 2
    assert main(["convert-detector", str(tmp_path / "absent"), str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_that_was_started(number, pictures, tmp_path, weights_file):
    command = [sys.executable, "-m", "mmnas", "extract-features", str(pictures), str(tmp_path / "out")]
    flags = [f"--detector={weights_file}", "--device=cpu,cpu"]
    with subprocess.Popen([*command, *flags], stderr=subprocess.PIPE) as process:
        process.stderr.read(1)  # the progress of a child has begun
        process.send_signal(number)
        process.stderr.read()  # until the last of them has closed it
    assert process.returncode in (-number, 128 + number)


def test_a_killed_run_leaves_no_half_file(pictures, tmp_path, weights_file):
    command = [sys.executable, "-m", "mmnas", "extract-features", str(pictures), str(tmp_path / "out")]
    with subprocess.Popen([*command, f"--detector={weights_file}"], stderr=subprocess.PIPE) as process:
        process.stderr.read(1)  # the progress has begun
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM
    for path in (tmp_path / "out").glob("*.npz"):
        assert len(read_npz(path, 2048).boxes) > 0
