"""The matching network against the published implementation (tests/parity/itm.json)."""

import numpy as np
import pytest
import torch

from mmnas.engine.checkpoint import load_checkpoint
from mmnas.engine.distributed import Group
from mmnas.engine.trainer import Trainer
from mmnas.genotype import Genotype
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

FIXTURE = fixture("itm")
SIZE = FIXTURE["dims"]["batch"]


@pytest.fixture(params=[plain, cpu], ids=["plain", "cpu"])
def network(request, tmp_path):
    """The fixture's network in both forms with the weights of a checkpoint in the published form."""
    path = published_checkpoint(tmp_path / "released.pkl", FIXTURE)
    network = fixture_network(FIXTURE)
    load_weights(network, load_checkpoint(path), path)
    return request.param(network)


@pytest.fixture(scope="module")
def batch():
    return fixture_batch(FIXTURE)


@pytest.fixture(scope="module")
def negative():
    return fixture_batch(FIXTURE | FIXTURE["negative"])


@pytest.fixture(scope="module")
def training_batch(batch, negative):
    """Positives and negatives as a training batch: eight images and captions, each once."""
    names = ("features", "boxes", "image_sizes", "region_mask", "tokens", "token_mask")
    rows = torch.stack([torch.arange(SIZE), torch.arange(SIZE) + SIZE], dim=1)
    both = {name: torch.cat([batch[name], negative[name]]) for name in names}
    return {**both, "index": torch.arange(SIZE), "image_rows": rows, "caption_rows": rows}


IMAGE, CAPTION = ("features", "boxes", "image_sizes", "region_mask"), ("tokens", "token_mask")


@pytest.mark.parametrize(
    ("output", "replaced"), [("probabilities", ()), ("negative_caption", CAPTION), ("negative_image", IMAGE)]
)
def test_probabilities_are_the_published_ones(network, batch, negative, output, replaced):
    with torch.no_grad():
        records = fixture_task(FIXTURE).predict(network.eval(), batch | {name: negative[name] for name in replaced})
    probabilities = [record["probability"] for record in records]
    np.testing.assert_allclose(probabilities, FIXTURE["outputs"][output], atol=1e-4, rtol=0)


@pytest.mark.parametrize("loss", ["bce", "margin"])
def test_losses_are_the_published_ones(network, training_batch, loss):
    task = fixture_task(FIXTURE, fixture_config(FIXTURE, **{"training.loss": loss}))
    total = task.loss(network.train(), training_batch)["total"]
    assert total.item() == pytest.approx(FIXTURE["losses"][loss], rel=1e-4)


def test_gradient_norms_are_the_published_ones(network, training_batch):
    fixture_task(FIXTURE).loss(network.train(), training_batch)["total"].backward()
    parameters = dict(network.named_parameters())
    assert len(parameters) == len(FIXTURE["gradient_norms"])
    for published, norm in FIXTURE["gradient_norms"].items():
        gradient = parameters[our_name(published)].grad
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-6), published


def test_parts_of_a_batch_add_up_to_it(network, training_batch):
    task = fixture_task(FIXTURE)
    parts = task.parts(training_batch, 3)
    assert [len(part["features"]) for part in parts] == [4, 2, 2]
    with torch.no_grad():
        whole = task.loss(network, training_batch)["total"]
        summed = sum(task.loss(network, part)["total"] for part in parts)
    assert summed.item() == pytest.approx(whole.item(), rel=1e-5)


def test_training_follows_the_published_trajectory(network, training_batch, tmp_path):
    task = one_batch_task("itm")(fixture_config(FIXTURE, tmp_path))
    task.vocabularies = fixture_task(FIXTURE).vocabularies
    trainer = Trainer(task, network, Genotype.from_dict(FIXTURE["genotype"]), Group(), tmp_path / "run", False)
    trainer.loader = Batches([training_batch] * FIXTURE["training"]["epoch_steps"])
    trainer.fit(NoScalars())
    assert len(task.losses) == 24
    np.testing.assert_allclose(task.losses, FIXTURE["training"]["losses"], rtol=5e-3)


def test_released_names_are_those_of_the_network():
    names = {our_name(name): tuple(shape) for name, shape in FIXTURE["state_dict_shapes"].items()}
    assert names == {name: tuple(value.shape) for name, value in fixture_network(FIXTURE).state_dict().items()}
