"""A new operation is one class and one row: built, run, searched, priced and drawn without anything else."""

import json

import pytest
import torch
from torch import nn

from mmnas.__main__ import main
from mmnas.genotype import OPERATIONS, Genotype, OperationSpec, search_space
from mmnas.models.cost import operation_cost
from mmnas.models.operations import FAMILIES, Residual, Sizes
from mmnas.search.architecture import Architecture
from mmnas.search.drawing import PALETTE, color_of, family_title
from mmnas.search.supernet import Supernet
from tests.forms import all_forms
from tests.stand_in import fixture, fixture_batch, fixture_network

FIGURES = fixture("vqa")


class MemoryGate(Residual):
    """The toy: x times a sigmoid of the memory's mean; `size` linears one after the other."""

    def __init__(self, spec, sizes):
        super().__init__(spec, sizes)
        self.linears = nn.Sequential(*(nn.Linear(sizes.hidden, sizes.hidden) for _ in range(spec.size)))

    def f(self, x, mask, memory, relation):
        return x * self.linears(memory.states.mean(dim=1, keepdim=True)).sigmoid()


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(FAMILIES, "memory_gate", MemoryGate)
    monkeypatch.setitem(OPERATIONS, "memory_gate_2", OperationSpec("memory_gate", 2, reads="memory"))


GENOTYPE = {"enc": [["self_att_64"]], "dec": [["memory_gate_2"], ["memory_gate_2", "rel_self_att_64"]]}


@all_forms
def test_it_is_built_and_run(form):
    network = form(fixture_network(FIGURES, Genotype.from_dict(GENOTYPE)))
    network(fixture_batch(FIGURES)).sum().backward()
    gradients = [value.grad for name, value in network.named_parameters() if ".linears." in name]
    assert len(gradients) == 2 * 2 * 2 and all(gradient.abs().sum() > 0 for gradient in gradients)


def test_it_is_searched():
    space = search_space(1, 2, ["feed_forward"], ["memory_gate_2", "guided_att_64"])
    supernet = Supernet(fixture_network(FIGURES, space), space)
    assert supernet.network([0, 0, 1])(fixture_batch(FIGURES)).isfinite().all()
    probabilities = Architecture(space, "uniform", seed=0).probabilities()
    assert [row.tolist() for row in probabilities] == [[1.0], [0.5, 0.5], [0.5, 0.5]]


def test_it_is_priced():
    cost = operation_cost("memory_gate_2", Sizes(64, relation_size=8), positions=5, memory=3)
    assert (cost.parameters, cost.multiply_adds) == (2 * (64 * 64 + 64) + 2 * 64, 2 * 64 * 64)


def test_it_is_drawn(tmp_path, capsys):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({"epoch0": GENOTYPE}))
    assert main(["show-arch", str(path), "--png", str(tmp_path / "toy.png")]) == 0
    assert "decoder: memory_gate_2 memory_gate_2+RSA" in capsys.readouterr().out
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert family_title("memory_gate") == "memory gate"
    assert color_of("memory_gate_2") in PALETTE
    assert color_of("memory_gate_2") not in {color_of(name) for name in OPERATIONS if name != "memory_gate_2"}


def test_its_memory_is_that_of_each_caption_in_retrieval():
    from mmnas.models.pair_scorer import PairScorer

    figures = fixture("itm")
    network = fixture_network(figures, Genotype.from_dict(GENOTYPE)).eval()
    batch = fixture_batch(figures)
    tokens = batch["tokens"][:2, :2]
    with torch.no_grad():
        scorer = PairScorer(network)
        rows = torch.arange(len(batch["boxes"])).expand(2, -1)
        scores = scorer.score(scorer.images(batch), rows, scorer.captions(tokens))
        for caption, row in zip(tokens, scores, strict=True):
            alone = {
                "tokens": caption.expand(len(row), -1),
                "token_mask": torch.ones(len(row), 2, dtype=torch.bool),
            }
            torch.testing.assert_close(network(batch | alone)[:, 0], row)
