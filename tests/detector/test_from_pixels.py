"""From pixels to a result: scenes are drawn, their regions extracted into a store, a network trained and scored."""

import numpy as np
import pytest

from mmnas.__main__ import main
from mmnas.data.store import FeatureStore
from mmnas.data.vqa_json import read_questions, require_questions
from mmnas.demo.world import write_world
from mmnas.detector import regions
from tests.conftest import Workplace


@pytest.mark.slow
def test_from_pixels_to_a_result(tmp_path, weights_file, run, monkeypatch, capsys):
    """The detector has its full size, but sees the pictures at a fifth of its usual one and keeps few proposals."""
    monkeypatch.setattr(regions, "SHORT_SIDE", 120)
    monkeypatch.setattr(regions, "LONG_SIDE", 200)
    monkeypatch.setattr(regions, "_PROPOSALS", 16)
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
