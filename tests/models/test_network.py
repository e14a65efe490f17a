import numpy as np
import pytest
import torch
from torch import nn

from mmnas.engine.checkpoint import checkpoints_in, load_checkpoint
from mmnas.engine.distributed import Group
from mmnas.engine.trainer import Trainer
from mmnas.errors import ConfigError
from mmnas.genotype import Genotype
from mmnas.models.heads import FusionHead
from mmnas.models.network import build_network
from mmnas.models.operations import Sizes, build_blocks
from mmnas.models.published import our_name
from mmnas.models.stems import RegionStem, normalize_boxes
from tests.forms import all_forms, cpu, plain
from tests.stand_in import (
    SHIPPED_GENOTYPES,
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
    shipped_genotype,
    stand_in_uniform,
)

FIXTURE = fixture("vqa")

# Parity with the published implementation (tests/parity/vqa.json)


@pytest.fixture(params=[plain, cpu], ids=["plain", "cpu"])
def network(request, tmp_path):
    """The fixture's network in both forms with the weights of a checkpoint in the published form."""
    path = published_checkpoint(tmp_path / "released.pkl", FIXTURE)
    network = fixture_network(FIXTURE)
    load_weights(network, load_checkpoint(path), path)
    return request.param(network)


@pytest.fixture(scope="module")
def batch():
    return fixture_batch(FIXTURE, **FIXTURE["targets"])


def test_logits_are_the_published_ones(network, batch):
    with torch.no_grad():
        logits = network.eval()(batch)
    np.testing.assert_allclose(logits, FIXTURE["outputs"]["logits"], atol=1e-4, rtol=0)


def test_loss_and_gradient_norms_are_the_published_ones(network, batch):
    loss = fixture_task(FIXTURE).loss(network.train(), batch)["total"]
    loss.backward()
    assert loss.item() == pytest.approx(FIXTURE["loss"], rel=1e-4)
    parameters = dict(network.named_parameters())
    assert len(parameters) == len(FIXTURE["gradient_norms"])
    for published, norm in FIXTURE["gradient_norms"].items():
        # The floor serves two gradients that are zero but for rounding.
        assert parameters[our_name(published)].grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-6)


def test_training_follows_the_published_trajectory(network, batch, tmp_path):
    task = one_batch_task("vqa")(fixture_config(FIXTURE, tmp_path))
    task.vocabularies = fixture_task(FIXTURE).vocabularies
    genotype = Genotype.from_dict(FIXTURE["genotype"])
    trainer = Trainer(task, network, genotype, Group(), tmp_path / "run", keep_all=True)
    trainer.loader = Batches([batch] * FIXTURE["training"]["epoch_steps"])
    trainer.fit(NoScalars())
    steps = len(FIXTURE["training"]["losses"])
    assert steps == 24
    np.testing.assert_allclose(task.losses, FIXTURE["training"]["losses"], rtol=5e-3)
    rates = [trainer.learning_rate(step) for step in range(steps)]
    np.testing.assert_allclose(rates, FIXTURE["training"]["learning_rates"], rtol=1e-12)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rates[-1])
    assert len(checkpoints_in(tmp_path / "run")) == 4


# Batches are as wide as their own content; the rest must not matter


def pad(tensor, length):
    padded = tensor.new_zeros(tensor.shape[0], length, *tensor.shape[2:])
    padded[:, : tensor.shape[1]] = tensor
    return padded


@all_forms
@pytest.mark.parametrize("name", SHIPPED_GENOTYPES)
def test_padding_to_100_regions_and_14_tokens_changes_nothing(name, batch, form):
    network = form(fixture_network(FIXTURE, shipped_genotype(name))).eval()
    widths = {"features": 100, "boxes": 100, "region_mask": 100, "tokens": 14, "token_mask": 14}
    padded = batch | {key: pad(batch[key], width) for key, width in widths.items()}
    with torch.no_grad():
        torch.testing.assert_close(network(padded), network(batch), atol=1e-5, rtol=0)


@all_forms
@pytest.mark.parametrize("name", SHIPPED_GENOTYPES)
def test_a_sample_alone_equals_itself_within_a_batch(name, batch, form):
    network = form(fixture_network(FIXTURE, shipped_genotype(name))).eval()
    with torch.no_grad():
        together = network(batch)
        for number, (regions, length) in enumerate(zip(FIXTURE["regions"], FIXTURE["lengths"], strict=True)):
            alone = {key: tensor[number : number + 1] for key, tensor in batch.items()}
            alone |= {key: alone[key][:, :regions] for key in ("features", "boxes", "region_mask")}
            alone |= {key: alone[key][:, :length] for key in ("tokens", "token_mask")}
            torch.testing.assert_close(network(alone)[0], together[number], atol=1e-5, rtol=0)


@all_forms
@pytest.mark.parametrize("name", SHIPPED_GENOTYPES)
def test_what_padding_holds_does_not_matter(name, batch, form):
    network = form(fixture_network(FIXTURE, shipped_genotype(name))).eval()
    regions, tokens = batch["region_mask"], batch["token_mask"]
    disturbed = batch | {
        "features": torch.where(regions[..., None], batch["features"], 7.0),
        "boxes": torch.where(regions[..., None], batch["boxes"], 33.0),
        "tokens": torch.where(tokens, batch["tokens"], 9),
    }
    with torch.no_grad():
        torch.testing.assert_close(network(disturbed), network(batch), atol=1e-5, rtol=0)


# Sizes and gradients


@pytest.mark.parametrize(
    ("name", "hidden", "millions"),
    [
        ("train_vqa", 512, 46.2),
        ("train_vgd", 512, 43.1),
        ("train_itm", 512, 41.0),
        ("mcan", 512, 44.1),
        ("train_vqa", 1024, 184.7),
    ],
)
def test_the_30_blocks_have_the_published_number_of_parameters(name, hidden, millions):
    genotype = shipped_genotype(name)
    sizes = Sizes(hidden, relation_size=64, head_scale=hidden // 512)
    with torch.device("meta"):
        blocks = [*build_blocks(genotype.encoder, sizes), *build_blocks(genotype.decoder, sizes)]
    assert len(blocks) == 30
    count = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    assert round(count / 1e6, 1) == millions


@all_forms
@pytest.mark.parametrize("name", SHIPPED_GENOTYPES)
def test_every_parameter_gets_a_gradient(name, batch, form):
    genotype = shipped_genotype(name)
    network = form(fixture_network(FIXTURE, genotype))
    for parameter, value in network.named_parameters():
        if parameter.endswith("attention.relation.weight"):
            nn.init.uniform_(value)  # its ReLU is dead on many seeds
    fixture_task(FIXTURE).loss(network, batch)["total"].backward()
    for parameter, value in network.named_parameters():
        assert torch.isfinite(value.grad).all(), parameter
        if not parameter.endswith("pooling.mlp.output.bias"):  # a softmax does not see it
            assert value.grad.abs().sum() > 0, parameter
    assert (network.relation is not None) == genotype.uses_relation == (name != "mcan")


# Stems


@pytest.mark.parametrize("box_size", [0, 24])
def test_box_size_adds_the_normalised_box(box_size, batch):
    network = fixture_network(FIXTURE, **{"model.box_size": box_size}).eval()
    assert network.region_stem.linear.in_features == FIXTURE["dims"]["image_feature_size"] + box_size
    with torch.no_grad():
        logits = network(batch)
        moved = network(batch | {"image_sizes": batch["image_sizes"] * 2})
    assert logits.shape == (4, FIXTURE["dims"]["answers"])
    assert torch.equal(moved, logits) == (box_size == 0)


def test_normalised_box_by_hand():
    # 64 .. 192 of a width of 640, 48 .. 240 of a height of 480: 0.2 x 0.4 of the image
    boxes, sizes = torch.tensor([[[64.0, 48.0, 192.0, 240.0]]]), torch.tensor([[480.0, 640.0]])
    torch.testing.assert_close(normalize_boxes(boxes, sizes), torch.tensor([[[0.1, 0.1, 0.3, 0.5, 0.08]]]))


def test_region_stem_joins_feature_and_box():
    torch.manual_seed(0)
    stem = RegionStem(feature_size=3, hidden=4, box_size=2)
    features, boxes = torch.rand(1, 2, 3), torch.tensor([[[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 9.0, 9.0]]])
    sizes = torch.tensor([[40.0, 20.0]])
    joined = torch.cat([features, stem.box_linear(normalize_boxes(boxes, sizes))], dim=-1)
    torch.testing.assert_close(stem(features, boxes, sizes), stem.linear(joined))


def build_with_words(vectors):
    return build_network(
        genotype=Genotype((("skip_connect",),), (("skip_connect",),)),
        head=FusionHead(hidden=8, pooling_size=4, glimpses=2, pooled=6, outputs=3, dropout=0.0),
        sizes=Sizes(8, relation_size=2),
        vocabulary_size=5,
        word_size=3,
        feature_size=4,
        box_size=0,
        word_vectors=vectors,
    )


def test_word_vectors_start_the_embedding_which_stays_trainable():
    vectors = stand_in_uniform("words", (5, 3)).astype(np.float32)
    embedding = build_with_words(vectors).token_stem.embedding
    np.testing.assert_array_equal(embedding.weight.detach(), vectors)
    assert embedding.weight.requires_grad


@pytest.mark.parametrize("shape", [(5, 2), (4, 3)])
def test_word_vectors_of_another_shape_are_named(shape):
    with pytest.raises(ConfigError, match=r"vectors are \(\d, \d\), the embedding is \(5, 3\).*model\.word_size"):
        build_with_words(np.zeros(shape, np.float32))


def test_a_chain_of_skips_passes_the_stems_to_the_head(batch):
    network = fixture_network(FIXTURE, Genotype((("skip_connect",),) * 2, (("skip_connect",),) * 2)).eval()
    tokens = network.token_stem(batch["tokens"])
    regions = network.region_stem(batch["features"], batch["boxes"], batch["image_sizes"])
    expected = network.head(tokens, batch["token_mask"], regions, batch["region_mask"])
    torch.testing.assert_close(network(batch), expected)


def test_fusion_head_by_its_parts():
    torch.manual_seed(0)
    head = FusionHead(hidden=8, pooling_size=4, glimpses=2, pooled=6, outputs=3, dropout=0.0)
    language, regions = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    masks = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    pooled = head.language_pooling(language, masks[0]) + head.region_pooling(regions, masks[1])
    expected = head.classifier(head.norm(pooled))
    assert expected.shape == (2, 3)
    torch.testing.assert_close(head(language, masks[0], regions, masks[1]), expected)
