"""The grounding network against the published implementation (tests/parity/vgd.json)."""

import numpy as np
import pytest
import torch
from msgspec import structs

from mmnas.engine.checkpoint import load_checkpoint
from mmnas.engine.distributed import Group
from mmnas.engine.trainer import Trainer
from mmnas.genotype import Genotype
from mmnas.models.heads import GroundingHead
from mmnas.models.published import our_name
from tests.forms import cpu, plain
from tests.stand_in import (
    Batches,
    NoScalars,
    fixture,
    fixture_batch,
    fixture_config,
    fixture_network,
    fixture_task,
    load_weights,
    one_batch_task,
    published_checkpoint,
)

FIXTURE = fixture("vgd")


@pytest.fixture(params=[plain, cpu], ids=["plain", "cpu"])
def network(request, tmp_path):
    """The fixture's network in both forms with the weights of a checkpoint in the published form."""
    path = published_checkpoint(tmp_path / "released.pkl", FIXTURE)
    network = fixture_network(FIXTURE)
    load_weights(network, load_checkpoint(path), path)
    return request.param(network)


@pytest.fixture(scope="module")
def batch():
    figures = FIXTURE["targets"]
    targets = {
        "region_scores": figures["score_targets"],
        "score_weight": np.array(figures["score_mask"])[:, 0],
        "region_offsets": figures["box_targets"],
        "region_matches": np.array(figures["box_mask"])[..., 0],
    }
    batch = fixture_batch(FIXTURE, **targets)
    return batch | {"region_matches": batch["region_matches"].bool()}


def test_scores_and_boxes_are_the_published_ones(network, batch):
    with torch.no_grad():
        scores, boxes = network.eval()(batch)
    np.testing.assert_allclose(scores, FIXTURE["outputs"]["scores"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(boxes, FIXTURE["outputs"]["boxes"], atol=1e-4, rtol=0)


def test_loss_and_gradient_norms_are_the_published_ones(network, batch):
    loss = fixture_task(FIXTURE).loss(network.train(), batch)["total"]
    loss.backward()
    assert loss.item() == pytest.approx(FIXTURE["loss"], rel=1e-4)
    parameters = dict(network.named_parameters())
    assert len(parameters) == len(FIXTURE["gradient_norms"])
    for published, norm in FIXTURE["gradient_norms"].items():
        assert parameters[our_name(published)].grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-6)


def test_training_follows_the_published_trajectory(network, batch, tmp_path):
    config = structs.replace(fixture_config(FIXTURE, tmp_path), split="train+val")
    task = one_batch_task("vgd")(config)
    task.vocabularies = fixture_task(FIXTURE).vocabularies
    trainer = Trainer(task, network, Genotype.from_dict(FIXTURE["genotype"]), Group(), tmp_path / "run", False)
    trainer.loader = Batches([batch] * FIXTURE["training"]["epoch_steps"])
    trainer.fit(NoScalars())
    assert len(task.losses) == 24
    np.testing.assert_allclose(task.losses, FIXTURE["training"]["losses"], rtol=5e-3)


def test_released_names_are_those_of_the_network():
    names = {our_name(name): tuple(shape) for name, shape in FIXTURE["state_dict_shapes"].items()}
    assert names == {name: tuple(value.shape) for name, value in fixture_network(FIXTURE).state_dict().items()}


# Padding


def test_padded_regions_take_no_part(network, batch):
    """Rows of three more regions, of which only their mask says that they are none."""
    network.eval()
    more = {key: torch.cat([batch[key], batch[key][:, :3] + 1], 1) for key in ("features", "boxes")}
    more["region_mask"] = torch.cat([batch["region_mask"], torch.zeros(4, 3, dtype=torch.bool)], 1)
    with torch.no_grad():
        scores, boxes = network(batch)
        wide_scores, wide_boxes = network(batch | more)
    torch.testing.assert_close(wide_scores[:, :9], scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(wide_boxes[:, :9], boxes, atol=1e-5, rtol=0)
    assert (wide_scores[:, 9:] < -1e8).all()
    torch.testing.assert_close(wide_scores.exp().sum(dim=1), torch.ones(4))


def test_grounding_head_by_its_parts():
    torch.manual_seed(0)
    head = GroundingHead(hidden=8, pooling_size=4, glimpses=2, pooled=6, dropout=0.0)
    language, regions = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    token_mask = torch.ones(2, 3, dtype=torch.bool)
    region_mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    scores, boxes = head(language, token_mask, regions, region_mask)
    fused = head.norm(head.language_pooling(language, token_mask)[:, None] + head.region_linear(regions))
    torch.testing.assert_close(boxes, head.box(fused))
    logits = head.score(fused)[..., 0]
    torch.testing.assert_close(scores[0], logits[0].log_softmax(0))
    torch.testing.assert_close(scores[1, :2], logits[1, :2].log_softmax(0))
    head.softmax = False
    plain = head(language, token_mask, regions, region_mask)[0]
    torch.testing.assert_close(plain[region_mask], logits[region_mask])


@pytest.mark.parametrize("loss", ["kld", "bce"])
def test_every_parameter_gets_a_gradient(batch, loss):
    config = {"training.loss": loss}
    network = fixture_network(FIXTURE, **config)
    for parameter, value in network.named_parameters():
        if parameter.endswith("attention.relation.weight"):
            torch.nn.init.uniform_(value)  # its ReLU is dead on many seeds
    fixture_task(FIXTURE, fixture_config(FIXTURE, **config)).loss(network, batch)["total"].backward()
    for parameter, value in network.named_parameters():
        assert torch.isfinite(value.grad).all(), parameter
        if not parameter.endswith("pooling.mlp.output.bias"):  # a softmax does not see it
            assert value.grad.abs().sum() > 0, parameter
