import math

import numpy as np
import pytest
import torch

from mmnas.genotype import Genotype
from mmnas.models import cpu
from mmnas.models.relation import Relation, RelationEmbedding, RelationReader, relation_features
from tests.stand_in import fixture, fixture_network


def all_valid(boxes):
    return torch.ones(boxes.shape[:2], dtype=torch.bool)


def test_features_by_hand():
    # widths 10 and 20, heights 20 and 5 (inclusive pixels), centres (14.5, 29.5) and (59.5, 12)
    boxes = torch.tensor([[[10.0, 20.0, 19.0, 39.0], [50.0, 10.0, 69.0, 14.0]]])
    features = relation_features(boxes, all_valid(boxes))
    assert features.shape == (1, 2, 2, 4)
    near = math.log(1e-3)
    expected = [
        [[near, near, 0.0, 0.0], [math.log(45 / 10), math.log(17.5 / 20), math.log(10 / 20), math.log(20 / 5)]],
        [[math.log(45 / 20), math.log(17.5 / 5), math.log(20 / 10), math.log(5 / 20)], [near, near, 0.0, 0.0]],
    ]
    torch.testing.assert_close(features[0], torch.tensor(expected))


def by_double_loop(boxes, mask):
    """The definition, pair by pair, in float64."""
    samples, regions = mask.shape
    features = np.zeros((samples, regions, regions, 4))
    for sample in range(samples):
        for i in range(regions):
            for j in range(regions):
                if mask[sample, i] and mask[sample, j]:
                    features[sample, i, j] = one_pair(*boxes[sample, i].tolist(), *boxes[sample, j].tolist())
    return features


def one_pair(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    width, height = ax2 - ax1 + 1, ay2 - ay1 + 1
    return (
        math.log(max(abs((ax1 + ax2) / 2 - (bx1 + bx2) / 2) / width, 1e-3)),
        math.log(max(abs((ay1 + ay2) / 2 - (by1 + by2) / 2) / height, 1e-3)),
        math.log(width / (bx2 - bx1 + 1)),
        math.log(height / (by2 - by1 + 1)),
    )


def random_boxes(samples, regions):
    corners = torch.rand(samples, regions, 2, 2, generator=torch.Generator().manual_seed(0))
    corners = corners.sort(dim=2).values * torch.tensor([640.0, 480.0])
    return corners.flatten(2)


def test_features_agree_with_a_double_loop():
    boxes = random_boxes(3, 7)
    mask = torch.arange(7)[None] < torch.tensor([7, 1, 4])[:, None]
    boxes = boxes * mask[..., None]
    np.testing.assert_allclose(relation_features(boxes, mask), by_double_loop(boxes, mask), atol=1e-4)


def test_pairs_with_padding_are_zero_whatever_the_padding_holds():
    boxes = random_boxes(1, 5)
    mask = torch.tensor([[True, True, False, True, False]])
    boxes[0, 2] = float("nan")
    boxes[0, 4] = torch.tensor([9.0, 9.0, 1.0, 1.0])
    features = relation_features(boxes, mask)
    assert not features[0, ~mask[0]].any()
    assert not features[0, :, ~mask[0]].any()
    assert features[0, 0, 1].all()


def test_a_box_of_one_pixel_is_finite():
    boxes = torch.tensor([[[5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 639.0, 479.0]]])
    assert torch.isfinite(relation_features(boxes, all_valid(boxes))).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_features_are_float32_whatever_the_boxes_are(dtype):
    boxes = torch.tensor([[[10.0, 20.0, 20.0, 40.0], [64.0, 16.0, 96.0, 32.0]]])
    features = relation_features(boxes.to(dtype), all_valid(boxes))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, relation_features(boxes, all_valid(boxes)))


def test_features_stay_float32_under_autocast():
    boxes = random_boxes(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        features = relation_features(boxes, all_valid(boxes))
    assert torch.equal(features, relation_features(boxes, all_valid(boxes)))


def test_embedding_is_a_rectified_linear():
    boxes, mask = random_boxes(2, 3), torch.tensor([[True, True, True], [True, False, False]])
    torch.manual_seed(0)
    embedding = RelationEmbedding(6)
    output = embedding(boxes, mask)
    expected = relation_features(boxes, mask) @ embedding.linear.weight.T + embedding.linear.bias
    torch.testing.assert_close(output, expected.clamp(min=0))
    assert output.shape == (2, 3, 3, 6)


@pytest.mark.parametrize("pairs_at_a_time", [1, 20, 20_000])
def test_biases_computed_together_are_those_of_each_reader(monkeypatch, pairs_at_a_time):
    """However many samples are embedded at a time, and with the gradients of keeping the embedding."""
    monkeypatch.setattr(cpu, "PAIRS_AT_A_TIME", pairs_at_a_time)
    boxes, mask = random_boxes(3, 4), torch.arange(4)[None] < torch.tensor([4, 1, 3])[:, None]
    torch.manual_seed(0)
    genotype = Genotype((("feed_forward",),), (("rel_self_att_64",), ("feed_forward", "rel_self_att_32")))
    network = fixture_network(fixture("vqa"), genotype)
    readers = [module for module in network.modules() if isinstance(module, RelationReader)]
    parameters = [p for module in (network.relation, *readers) for p in module.parameters()]
    plain = network.relate(boxes, mask)
    cpu.use_cpu_kernels(network)
    together = network.relate(boxes, mask)
    sums = [0.0, 0.0]
    for reader in readers:
        found, expected = together.bias(reader), plain.bias(reader)
        torch.testing.assert_close(found, expected)
        weight = torch.rand_like(expected)
        sums = [total + (bias * weight).sum() for total, bias in zip(sums, (found, expected), strict=True)]
    assert len({bias.shape for bias in (together.bias(reader) for reader in readers)}) == 2
    for here, there in zip(*(torch.autograd.grad(total, parameters) for total in sums), strict=True):
        torch.testing.assert_close(here, there)


def test_bias_by_hand():
    # log(2 * 3 - 1) where positive; log of the floor where the linear gives -1
    reader = RelationReader(1, 2)
    with torch.no_grad():
        reader.weight.copy_(torch.tensor([[2.0], [0.0]]))
        reader.bias.copy_(torch.tensor([-1.0, -1.0]))
    bias = reader(torch.tensor([[[[3.0]]]]))
    torch.testing.assert_close(bias, torch.tensor([math.log(5), math.log(1e-6)]).view(1, 2, 1, 1))


def test_a_relation_of_chosen_images():
    relation = Relation(lambda reader: torch.arange(3.0).view(3, 1, 1, 1), torch.tensor([2, 0, 2]))
    assert relation.bias(RelationReader(1, 1)).flatten().tolist() == [2.0, 0.0, 2.0]
