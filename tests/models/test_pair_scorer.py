"""The block scorer gives the scores of the plain forward of every pair, and runs each part as seldom as it says."""

import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmnas.genotype import OPERATIONS, Genotype
from mmnas.models import pair_scorer
from mmnas.models.operations import GuidedAttention
from mmnas.models.pair_scorer import MEMORY_BUDGET, PairScorer, memory_budget
from tests.forms import all_forms, plain
from tests.stand_in import SHIPPED_GENOTYPES, fixture, fixture_network, shipped_genotype

FIXTURE = fixture("itm")
IMAGES = 5
TEXTS = [[3, 4, 5], [6], [7, 8, 9], [3, 4, 5, 6, 7, 8, 9], [10]]


def images(regions=(7, 7, 7, 7, 7)):
    """Random images of so many regions."""
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(IMAGES, 7, 2, generator=draw) * 300
    mask = torch.arange(7)[None] < torch.tensor(regions)[:, None]
    sides = 20 + 100 * torch.rand(IMAGES, 7, 2, generator=draw)
    return {
        "features": torch.rand(IMAGES, 7, 48, generator=draw) * mask[..., None],
        "boxes": torch.cat([corners, corners + sides], dim=-1) * mask[..., None],
        "image_sizes": torch.full((IMAGES, 2), 450.0),
        "region_mask": mask,
    }


def plain_scores(network, batch):
    """Every pair through the plain forward, (I, C)."""
    columns = []
    for text in TEXTS:
        tokens = torch.tensor([text] * IMAGES)
        caption = {"tokens": tokens, "token_mask": torch.ones_like(tokens, dtype=torch.bool)}
        columns.append(network({**batch, **caption}))
    return torch.cat(columns, dim=1)


def every_image(captions):
    """Rows that name all images for each caption."""
    return torch.arange(IMAGES).expand(captions, -1)


def block_scores(network, batch, budget):
    scorer = PairScorer(network, budget)
    states = scorer.images(batch)
    scores = torch.empty(IMAGES, len(TEXTS))
    for places in scorer.groups(np.array([len(text) for text in TEXTS])):
        captions = scorer.captions(torch.tensor([TEXTS[place] for place in places]))
        scores[:, places] = scorer.score(states, every_image(len(places)), captions).T
    return scores


def random_genotype(seed):
    draw = random.Random(seed)
    anything = [name for name in OPERATIONS if "256" not in name]
    encoder = [name for name in anything if not OPERATIONS[name].reads]
    rows = [[draw.choice(anything) for _ in range(draw.choice([1, 1, 2]))] for _ in range(6)]
    return Genotype(((draw.choice(encoder),), (draw.choice(encoder),)), tuple(map(tuple, rows)))


def network_of(genotype, form=plain):
    """The genotype's network with relation biases that are not all at their floor."""
    network = form(fixture_network(FIXTURE, genotype)).eval()
    for name, value in network.named_parameters():
        if name.endswith("attention.relation.bias"):
            torch.nn.init.constant_(value, 0.5)
    return network


GENOTYPES = {name: shipped_genotype(name) for name in SHIPPED_GENOTYPES} | {
    f"random {seed}": random_genotype(seed) for seed in range(12)
}
GENOTYPES["no language in the decoder"] = Genotype((("self_att_64",),), (("rel_self_att_64",), ("feed_forward",)))
GENOTYPES["language at once"] = Genotype((("self_att_64",),), (("guided_att_64", "uniimg_att_64"), ("sep_conv_3",)))


@all_forms
@pytest.mark.parametrize("name", GENOTYPES)
@torch.no_grad()
def test_scores_are_those_of_the_plain_forward(name, form):
    network = network_of(GENOTYPES[name], form)
    for regions in ((7, 7, 7, 7, 7), (7, 2, 5, 1, 7)):
        batch = images(regions)
        plain = plain_scores(network, batch)
        for budget in (1, 200_000, 2**27):
            torch.testing.assert_close(block_scores(network, batch, budget), plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_chosen_pairs_are_those_of_the_matrix():
    scorer = PairScorer(network_of(shipped_genotype("train_itm")))
    states, captions = scorer.images(images()), scorer.captions(torch.tensor([TEXTS[0], TEXTS[2]]))
    rows = torch.tensor([[4, 0, 3], [1, 1, 2]])
    every = scorer.score(states, every_image(2), captions)
    torch.testing.assert_close(scorer.score(states, rows, captions), every.gather(1, rows))


@all_forms
@torch.no_grad()
def test_each_part_runs_once(form):
    network = network_of(shipped_genotype("train_itm"), form)
    calls = Counter()

    def count(name):
        return lambda module, inputs, output: calls.update({name: len(inputs[0])})

    network.region_stem.register_forward_hook(count("images through the stem"))
    network.relation.register_forward_hook(count("images related"))
    network.backbone.decoder[0].register_forward_hook(count("images through the first block"))
    network.backbone.encoder[0].register_forward_hook(count("captions encoded"))
    guided = [module for module in network.modules() if isinstance(module, GuidedAttention)]
    guided[-1].attention.key.register_forward_hook(count("captions made keys of"))
    block_scores(network, images(), budget=1)
    assert len(guided) == 10
    assert calls == {
        "images through the stem": IMAGES,
        "images related": IMAGES,
        "images through the first block": IMAGES,
        "captions encoded": len(TEXTS),
        "captions made keys of": len(TEXTS),
    }


@all_forms
@torch.no_grad()
def test_bfloat16_makes_no_ties(form):
    network = network_of(shipped_genotype("train_itm"), form)
    with torch.autocast("cpu", torch.bfloat16):
        scores = block_scores(network, images(), 2**27)
    assert scores.dtype == torch.float32 and len(scores.unique()) == scores.numel()


GIB = 2**30


@pytest.mark.parametrize("whole, expected", [(80 * GIB, 4 * GIB), (24 * GIB, 3 * GIB // 2), (8 * GIB, GIB // 2)])
def test_a_gpu_gives_a_fixed_part_of_its_memory(whole, expected, monkeypatch):
    """Of all of it: with a part of what is free, scores would depend on what else the GPU holds."""
    device = torch.device("cuda", 0)
    properties = SimpleNamespace(total_memory=whole)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda asked: {device: properties}[asked])
    assert memory_budget(device) == memory_budget(device, on_cpu=1) == expected


def test_a_cpu_takes_what_its_caches_hold():
    assert memory_budget(torch.device("cpu")) == MEMORY_BUDGET == 2**27
    assert memory_budget(torch.device("cpu"), on_cpu=5) == 5


def test_the_scorer_asks_for_the_budget_of_its_networks_device(monkeypatch):
    network = network_of(shipped_genotype("train_itm"))
    asked = {torch.device("cpu"): 2**20}
    monkeypatch.setattr(pair_scorer, "memory_budget", asked.__getitem__)
    assert PairScorer(network).budget == 2**20
    assert PairScorer(network, 7).budget == 7
