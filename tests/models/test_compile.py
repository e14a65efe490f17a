"""`--COMPILE`: all but the LSTM is compiled, once for all sizes of a batch."""

import pytest
import torch
import torch.fx.experimental._config as shapes
from torch import nn

from mmnas.engine.distributed import Group
from mmnas.engine.trainer import Trainer
from tests.stand_in import fixture, fixture_config, fixture_network, one_batch_task, shipped_genotype

# Samples, regions, tokens. At first all equal the 4 of the boxes; then each equals another, or none.
SIZES = (4, 4, 4), (2, 5, 3), (7, 21, 5), (3, 3, 8), (8, 6, 6), (6, 36, 6), (5, 5, 5), (2, 2, 2), (3, 64, 14)
OF_ONE = (1, 9, 5), (3, 1, 5), (3, 5, 1), (1, 1, 1)


class Counter:
    """A compiler that runs the graph as it is, and counts."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, _):
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture
def counter():
    torch._dynamo.reset()
    yield Counter()
    torch._dynamo.reset()
    shapes.use_duck_shape = True


def batch_of(task, samples, regions, tokens):
    dims, generator = fixture(task)["dims"], torch.Generator().manual_seed(samples)
    batch = {
        "tokens": torch.randint(1, dims["vocab_size"], (samples, tokens), generator=generator),
        "token_mask": torch.ones(samples, tokens, dtype=torch.bool),
        "features": torch.rand(samples, regions, dims["image_feature_size"], generator=generator),
        "boxes": torch.tensor([0.0, 0.0, 9.0, 9.0]) + torch.rand(samples, regions, 4, generator=generator),
        "image_sizes": torch.full((samples, 2), 40.0),
        "region_mask": torch.ones(samples, regions, dtype=torch.bool),
    }
    pairs = {"pair_images": torch.arange(samples).repeat(3), "pair_captions": torch.arange(samples).repeat(3)}
    return batch | (pairs if task == "itm" else {})


@pytest.mark.parametrize("task", ["vqa", "vgd", "itm"])
def test_one_compilation_serves_all_sizes(task, counter):
    network = fixture_network(fixture(task)).train()
    expected = [network(batch_of(task, *sizes)) for sizes in SIZES + OF_ONE]
    network.compile(backend=counter)
    for sizes, outputs in zip(SIZES + OF_ONE, expected, strict=True):
        torch.testing.assert_close(network(batch_of(task, *sizes)), outputs)
    assert len(counter.graphs) == 1
    targets = {str(node.target) for node in counter.graphs[0].graph.nodes}
    assert not any("lstm" in target for target in targets)
    assert any("scaled_dot_product_attention" in target for target in targets)


def test_under_autocast_too(counter):
    network = fixture_network(fixture("vqa")).train()
    network.compile(backend=counter)
    with torch.autocast("cpu", torch.bfloat16):
        logits = [network(batch_of("vqa", *sizes)) for sizes in SIZES[:4]]
    assert len(counter.graphs) == 1 and {each.dtype for each in logits} == {torch.float32}


def test_a_compiled_network_keeps_its_parameters_names(counter):
    network = fixture_network(fixture("vqa"))
    names = list(network.state_dict())
    network.compile(backend=counter)
    assert list(network.state_dict()) == names


@pytest.mark.parametrize("compiled", [False, True])
def test_training_compiles_where_asked(compiled, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(nn.Module, "compile", None)  # would compile the LSTM, too
    monkeypatch.setattr(torch, "compile", lambda function, **options: calls.append(options) or function)
    config = fixture_config(fixture("vqa"), tmp_path, **{"training.compile": compiled})
    task = one_batch_task("vqa")(config)
    Trainer(task, fixture_network(fixture("vqa")), shipped_genotype("train_vqa"), Group(), tmp_path, False)
    assert calls == [{"dynamic": True}] * compiled
