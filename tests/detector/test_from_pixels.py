"""From pixels to a result: scenes drawn, regions extracted into a store, a network trained, scored and asked."""

import json
import time

import numpy as np
import pytest

from mmnas.__main__ import main
from mmnas.data.store import FeatureStore
from mmnas.data.vqa_json import read_questions
from mmnas.demo.world import write_world
from mmnas.detector import regions
from tests.conftest import Workplace
from tests.places import require_questions


@pytest.fixture
def quick(monkeypatch):
    """Let the detector see pictures at a fifth of its usual size and keep few proposals."""
    monkeypatch.setattr(regions, "SHORT_SIDE", 120)
    monkeypatch.setattr(regions, "LONG_SIDE", 200)
    monkeypatch.setattr(regions, "_PROPOSALS", 16)


@pytest.mark.slow
def test_the_next_question_about_an_image_needs_no_detector(
    quick, trained, weights_file, tmp_path, monkeypatch, capsys
):
    """The detector has its full size; the second answer is the same, and comes much sooner."""
    image = next((trained.data / "images" / "val2014").glob("*.jpg"))
    command = [
        "predict",
        str(image),
        "--question",
        "how many?",
        f"--ckpt={trained.checkpoint('base', 'epoch2.pkl')}",
    ]

    def ask():
        start = time.process_time()
        assert main([*command, f"--detector={weights_file}", f"--cache={tmp_path}"]) == 0
        return json.loads(capsys.readouterr().out), time.process_time() - start

    answer, seconds = ask()
    monkeypatch.setattr("mmnas.detector.weights.read_weights", None)  # of no use any more
    again, less = ask()
    assert again == answer and less < seconds / 3


@pytest.mark.slow
def test_from_pixels_to_a_result(quick, tmp_path, weights_file, run, capsys):
    """The detector has its full size."""
    write_world(tmp_path / "data", images=24)
    pictures = [str(tmp_path / "data" / "images" / split) for split in ("train2014", "val2014", "test2015")]
    store = tmp_path / "mine.features"
    assert main(["extract-features", *pictures, str(store), f"--detector={weights_file}"]) == 0
    assert "24 images extracted" in capsys.readouterr().out

    features = FeatureStore(store)
    looks = [np.asarray(features[image_id].features).mean(axis=0) for image_id in features.image_ids]
    assert len(np.unique(np.round(looks, 4), axis=0)) == 24  # each picture has features of its own
    for image_id in features.image_ids:
        boxes, (height, width) = features[image_id].boxes, features[image_id].image_size
        assert 440 <= height <= 520 and 600 <= width <= 680
        assert (boxes >= 0).all() and (boxes[:, 2:].max(axis=0) <= [width, height]).all()

    for folder in (tmp_path / "data").glob("*coco*"):  # the made-up features: training must do without
        folder.rename(tmp_path / folder.name)
    place = Workplace(tmp_path, tmp_path / "data")
    common = [f"--FEAT_PATH={store}", "--VERSION=pixels"]
    assert run(place, *place.train_flags("pixels", "--MAX_EPOCH=1", f"--FEAT_PATH={store}")).code == 0
    assert run(place, "--RUN=val", *common).code == 0
    questions = read_questions(require_questions(place.data, "val"))
    assert [row["question_id"] for row in place.result("val", "pixels")] == [each.question_id for each in questions]
    assert 0 < place.result("val", "pixels", "metrics.json")["official"]["overall"] <= 100
