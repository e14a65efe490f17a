"""Grounding's targets, losses and predictions, by hand."""

import math
import time

import numpy as np
import pytest
import torch

from mmnas.batch import collate
from mmnas.boxes.geometry import encode_boxes, normalize_offsets
from mmnas.config import DataConfig, load_config
from mmnas.data.features import Regions
from mmnas.data.refs import Expression
from mmnas.errors import ConfigError
from mmnas.metrics.grounding import CORRECT_IOU
from mmnas.tasks.grounding_loss import grounding_loss, grounding_targets, loss_totals
from mmnas.tasks.vgd import VGDDataset, VGDTask
from mmnas.text.vocabulary import Vocabulary

# The reference is 10 x 10 pixels. Its IoU with boxes of the same place, by their number of columns: 10 -> 1,
# 8 -> 0.8, 6.5 -> 0.65, 5 -> 0.5, 4 -> 0.4.
REFERENCE = np.array([0, 0, 9, 9], np.float32)
BOXES = np.array([[0, 0, x, 9] for x in (9, 7, 5.5, 4, 3)] + [[100, 100, 120, 120]], np.float32)


def test_score_targets_are_shares_of_the_ious_from_one_half():
    targets = grounding_targets(BOXES, REFERENCE, "kld")
    np.testing.assert_allclose(targets["region_scores"], np.array([1, 0.8, 0.65, 0.5, 0, 0]) / 2.95, atol=1e-6)
    assert targets["region_matches"].tolist() == [True, True, True, True, False, False]
    assert targets["score_weight"] == 1
    assert CORRECT_IOU == 0.5


def test_score_targets_of_bce_are_levels():
    scores = grounding_targets(BOXES, REFERENCE, "bce")["region_scores"]
    np.testing.assert_allclose(scores, [1, 1, 0.9, 0.8, 0, 0])
    edges = np.array([[0, 0, x, 9] for x in (6, 5, 4)], np.float32)  # 7, 6, 5 of 10 columns
    scores = grounding_targets(edges, REFERENCE, "bce")["region_scores"]
    np.testing.assert_allclose(scores, [1, 0.9, 0.8])


def test_offsets_by_hand():
    # 8 columns centred at 4, the reference's 10 at 5: a shift of 1/8 of its width, a ratio of 10/8.
    offsets = grounding_targets(BOXES, REFERENCE, "kld")["region_offsets"]
    np.testing.assert_allclose(offsets[1], [1 / 8 / 0.1, 0, math.log(10 / 8) / 0.2, 0], atol=1e-6)
    np.testing.assert_allclose(offsets[0], [0, 0, 0, 0], atol=1e-7)


@pytest.mark.parametrize("loss", ["kld", "bce"])
def test_a_sample_that_no_region_matches_has_no_weight(loss):
    targets = grounding_targets(BOXES[4:], REFERENCE, loss)
    assert targets["score_weight"] == 0
    assert not targets["region_scores"].any() and not targets["region_matches"].any()
    assert np.isfinite(targets["region_offsets"]).all()


def test_targets_take_less_than_a_fifth_of_a_millisecond():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 300, (100, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 300, (100, 2))], axis=1).astype(np.float32)
    grounding_targets(boxes, boxes[3], "kld")
    rounds = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(20):
            grounding_targets(boxes, boxes[3], "kld")
        rounds.append((time.perf_counter() - start) / 20)
    assert min(rounds) < 0.2e-3


# Losses


class Images(dict):
    """Stands in for a region source."""

    def describe(self):
        return "memory"


def samples(loss="kld"):
    """Three samples of 6, 3 and 2 regions; the last matches none."""
    size = np.array([200, 300], np.float32)
    kinds = {1: BOXES, 2: BOXES[2:5], 3: BOXES[4:]}
    images = Images({key: Regions(np.ones((len(b), 4), np.float32), b, size) for key, b in kinds.items()})
    expressions = [Expression(key, ["red", "ball"], [0, 0, 9, 9], key, key) for key in kinds]
    words = Vocabulary(["PAD", "UNK", "CLS", "red"])
    return VGDDataset(expressions, images, words, DataConfig(), loss)


def training_batch(loss="kld"):
    data = samples(loss)
    return collate([data[index] for index in range(len(data))])


def outputs(batch, seed=0):
    torch.manual_seed(seed)
    shape = batch["region_mask"].shape
    logits = torch.randn(shape).masked_fill(~batch["region_mask"], -1e9)
    return logits, torch.randn(*shape, 4)


def test_a_sample_holds_text_regions_reference_and_targets():
    sample = samples()[1]
    assert sample["tokens"].tolist() == [3, 1]  # "ball" is unknown
    assert sample["boxes"].shape == (3, 4) and sample["region_offsets"].shape == (3, 4)
    assert sample["reference"].tolist() == [0, 0, 9, 9]
    assert "region_scores" not in samples(loss=None)[1]


def test_targets_are_padded_with_the_regions():
    batch = training_batch()
    assert batch["region_scores"].shape == batch["region_matches"].shape == (3, 6)
    assert batch["region_offsets"].shape == (3, 6, 4)
    assert not batch["region_matches"][~batch["region_mask"]].any()
    assert batch["score_weight"].tolist() == [1, 1, 0]
    totals = loss_totals(batch)
    assert (totals["scored_samples"].item(), totals["matching_regions"].item()) == (2, 6)


def test_kld_by_hand():
    batch = training_batch()
    logits, offsets = outputs(batch)
    losses = grounding_loss(logits.log_softmax(1), offsets, batch | loss_totals(batch), "kld")
    score = box = 0.0
    for row, regions in ((0, 6), (1, 3)):
        predicted = logits[row, :regions].log_softmax(0).tolist()
        target = batch["region_scores"][row, :regions].tolist()
        score += sum(t * (math.log(t) - p) for t, p in zip(target, predicted, strict=True) if t)
        for region in range(regions):
            if batch["region_matches"][row, region]:
                gaps = (offsets[row, region] - batch["region_offsets"][row, region]).abs().tolist()
                box += sum(0.5 * gap**2 if gap < 1 else gap - 0.5 for gap in gaps)
    assert losses["score"].item() == pytest.approx(score / 2, rel=1e-5)
    assert losses["box"].item() == pytest.approx(box / 6, rel=1e-5)
    assert losses["total"].item() == pytest.approx(score / 2 + 0.5 * box / 6, rel=1e-5)


def test_bce_by_hand():
    batch = training_batch("bce")
    logits, offsets = outputs(batch)
    losses = grounding_loss(logits, offsets, batch | loss_totals(batch), "bce")
    score = 0.0
    for row, regions in ((0, 6), (1, 3)):
        for region in range(regions):
            share = 1 / (1 + math.exp(-logits[row, region].item()))
            target = batch["region_scores"][row, region].item()
            score -= target * math.log(share) + (1 - target) * math.log(1 - share)
    assert losses["score"].item() == pytest.approx(score / 2, rel=1e-4)


@pytest.mark.parametrize("loss", ["kld", "bce"])
def test_padding_takes_no_part_in_the_loss(loss):
    batch = training_batch(loss)
    logits, offsets = (tensor.requires_grad_() for tensor in outputs(batch))
    scores = logits.log_softmax(1) if loss == "kld" else logits
    grounding_loss(scores, offsets, batch | loss_totals(batch), loss)["total"].backward()
    padded = ~batch["region_mask"]
    assert not logits.grad[padded].any() and not offsets.grad[padded].any()
    assert not logits.grad[2].any() and not offsets.grad[2].any()  # no region matches
    assert logits.grad[0].all()


@pytest.mark.parametrize("loss", ["kld", "bce"])
def test_a_batch_without_any_match_is_finite(loss):
    data = samples(loss)
    batch = collate([data[2]])
    logits, offsets = (tensor.requires_grad_() for tensor in outputs(batch))
    scores = logits.log_softmax(1) if loss == "kld" else logits
    total = grounding_loss(scores, offsets, batch | loss_totals(batch), loss)["total"]
    total.backward()
    assert total.item() == 0 and logits.grad.isfinite().all()


# Predictions


def task(**overrides):
    config = load_config("vgd", "tiny", split="train", version="test", overrides=overrides)
    made = VGDTask(VGDTask.settle(config))
    made.vocabularies = {"tokens": ["PAD", "UNK", "CLS", "red"]}
    return made


def predicted(scores, offsets, **overrides):
    data = samples(loss=None)
    batch = collate([data[index] for index in range(3)])
    return task(**overrides).predict(lambda _: (scores, offsets), batch)


def test_the_best_region_is_moved_and_clipped():
    batch = training_batch()
    logits = torch.full((3, 6), -5.0).masked_fill(~batch["region_mask"], -1e9)
    logits[0, 1], logits[1, 0], logits[2, 1] = 3, 2, 1
    offsets = torch.zeros(3, 6, 4)
    offsets[0] = normalize_offsets(encode_boxes(torch.from_numpy(BOXES), torch.from_numpy(REFERENCE)))
    offsets[2, 1] = torch.tensor([100.0, 100, 5, 5])  # far out of the 300 x 200 image
    records = predicted(logits.log_softmax(1), offsets)
    assert [record["index"] for record in records] == [0, 1, 2]
    # Decoding gives a box one pixel wider and higher than the reference (100 of 121 pixels).
    np.testing.assert_allclose(records[0]["box"], [0, 0, 10, 10], atol=1e-4)
    assert records[0]["iou"] == pytest.approx(100 / 121, abs=1e-5)
    np.testing.assert_allclose(records[1]["box"], [0, 0, 6.5, 10], atol=1e-4)
    assert records[2]["box"][2:] == [299, 199]
    assert [record["best_region_iou"] for record in records] == pytest.approx([1, 0.65, 0.4])
    assert [record["matching_regions"] for record in records] == pytest.approx([4 / 6, 2 / 3, 0])
    assert records[0]["score"] == pytest.approx(logits[0].softmax(0)[1].item(), rel=1e-5)


def test_padding_is_never_predicted():
    """Scores that fall behind a model's own padding would: only the mask keeps them apart."""
    batch = training_batch()
    logits = torch.full((3, 6), -100.0).masked_fill(~batch["region_mask"], -1e9)
    for record, regions in zip(predicted(logits, torch.zeros(3, 6, 4)), (6, 3, 2), strict=True):
        assert len(record["best"]) <= regions
        assert record["box"] != [0, 0, 1, 1]


def test_the_best_boxes_are_apart_and_in_order():
    logits = torch.tensor([[5.0, 4, 3, 2, 1, 0]]).repeat(3, 1).masked_fill(~training_batch()["region_mask"], -1e9)
    first = predicted(logits.log_softmax(1), torch.zeros(3, 6, 4))[0]["best"]
    # As decoded, all are a pixel wider: of the box with 11 columns, the one with 5 covers less than half.
    assert [each["box"][2] for each in first] == pytest.approx([10, 4, 121], abs=1e-3)
    assert [each["score"] for each in first] == sorted((each["score"] for each in first), reverse=True)
    assert first[0]["score"] == pytest.approx(logits[0].softmax(0)[0].item(), rel=1e-5)


def test_bce_scores_are_sigmoids():
    logits = torch.tensor([[2.0, 0, 0, 0, 0, 0]]).repeat(3, 1)
    record = predicted(logits, torch.zeros(3, 6, 4), **{"training.loss": "bce"})[0]
    assert record["score"] == pytest.approx(1 / (1 + math.exp(-2)))


# Settings


def test_width_follows_from_the_kind_of_features():
    assert task().config.model.feature_size == 2048
    assert task(**{"data.feature_kind": "coco_mrcn"}).config.model.feature_size == 3072


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.dataset", "refcocoq", "data.dataset 'refcocoq' is unknown; did you mean refcoco"),
        ("data.feature_kind", "vg", "data.feature_kind 'vg' is unknown; valid ones: vg_woref, coco_mrcn"),
        ("training.loss", "kl", "training.loss 'kl' is unknown; did you mean kld"),
        ("model.feature_size", 100, "model.feature_size 100"),
    ],
)
def test_unknown_settings_are_named(key, value, message):
    with pytest.raises(ConfigError, match=message):
        task(**{key: value})


def test_every_test_split_is_scored():
    assert task().splits_of("test") == ("testA", "testB")
    assert task(**{"data.dataset": "refcocog"}).splits_of("test") == ("test",)
    assert task().splits_of("val") == ("val",)


def test_a_test_split_that_the_data_set_lacks_lists_the_valid_ones():
    with pytest.raises(ConfigError, match="refcocog's split 'testA' is unknown; did you mean test"):
        task(**{"data.dataset": "refcocog"}).evaluation_set("testA")
