"""Predictions: the same one by one and together, with attention that sums to one; faults stop nothing else."""

import numpy as np
import pytest

import mmnas
from mmnas.errors import DataError
from mmnas.predict.inputs import Inputs
from mmnas.predict.predictions import Failure

TEXTS = ["red ball", "what color is the large cube", "a star above the small ring"]
FOLDERS = {
    "trained": "coco_extract/val2014",
    "grounded": "vgd_coco/fix100/refcoco_unc",
    "matched": "rois_resnet101_fix36/val2014",
}


@pytest.fixture(params=FOLDERS)
def asked(request, world):
    model = mmnas.load(request.getfixturevalue(request.param).checkpoint("base", "epoch2.pkl"))
    return model, sorted((world / FOLDERS[request.param]).glob("*.npz"))[:3]


def numbers(record):
    found = record.values() if isinstance(record, dict) else record
    nested = (numbers(each) for each in found if isinstance(each, (dict, list)))
    return [each for each in found if isinstance(each, float)] + [number for part in nested for number in part]


def test_one_by_one_together_and_with_attention_are_the_same(asked):
    model, paths = asked
    together = model.predict(paths, TEXTS)
    for path, text, one in zip(paths, TEXTS, together, strict=True):
        for attention in (False, True):
            alone = model.predict(path, text, attention=attention)[0]
            np.testing.assert_allclose(numbers(alone.record()), numbers(one.record()), rtol=1e-5, atol=1e-6)


def test_attention_sums_to_one_over_valid_positions(asked):
    model, paths = asked
    for one in model.predict(paths, TEXTS):
        assert one.word_weights.shape == (len(one.words),) and one.region_weights.shape == (len(one.regions.boxes),)
        assert one.word_weights.sum() == pytest.approx(1, abs=1e-5)
        assert one.region_weights.sum() == pytest.approx(1, abs=1e-5)
    (one,) = model.predict(paths[0], TEXTS[0], attention=True)
    assert set(one.attention) == {"encoder.0", "decoder.0", "decoder.1"}
    for weights in one.attention.values():
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)


def test_what_cannot_be_answered_stops_nothing_else(asked):
    model, paths = asked
    pairs = [(paths[0], "?"), ("absent.jpg", TEXTS[0]), (paths[0], TEXTS[0]), ((np.ones((2, 5)),) * 3, TEXTS[0])]
    results = list(model.predict_each(pairs))
    assert [isinstance(each, Failure) for each in results] == [True, True, False, True]
    assert [each.reason.split(";")[0] for each in results[:2]] == [
        "the text has no words",
        "No such file or directory",
    ]
    with pytest.raises(ValueError, match="no words"):
        model.predict(paths[0], "?")


def test_features_in_one_file_are_of_one_image(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 8), np.float32), bbox=np.ones((2, 4)), image_h=9, image_w=9)
    inputs = Inputs(8, (1, 2), None, tmp_path / "a.npz", None, "cpu")
    assert all(inputs.regions("a.jpg", "a").features.all() for _ in range(2))
    with pytest.raises(DataError, match=r"a\.npz was read for a\.jpg: name a folder"):
        inputs.regions("b.jpg", "b")


@pytest.mark.parametrize(
    "image", [None, 3, b"a.jpg", np.ones((2, 2048)), (1, 2), ("a", "b", "c"), ([[1], [1, 2]], [], (3, 4))], ids=repr
)
def test_what_is_no_image_is_named(image, trained):
    model = mmnas.load(trained.checkpoint("base", "epoch2.pkl"))
    (result,) = model.predict_each([(image, "how many?")])
    assert result.reason.startswith("image 1 is not a file, a Pillow image, Regions, or a tuple of")


def test_wrong_numbers_are_told(trained):
    model = mmnas.load(trained.checkpoint("base", "epoch2.pkl"))
    with pytest.raises(ValueError, match="top=-1: ask for at least 1"):
        model.predict((np.ones((1, 2048)), [[0, 0, 9, 9]], (9, 9)), "how many?", top=-1)
    with pytest.raises(ValueError, match=r"the size \(1,\); expected"):
        model(["how many?"], [np.ones((1, 2048))], [np.ones((1, 4))], [(9,)])
    with pytest.raises(ValueError, match="no checkpoint is named"):
        mmnas.load([])
