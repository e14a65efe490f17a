"""Mixed operations and the supernet against the published ones (tests/parity/search.json, supernet.json)."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmnas.config import SearchConfig
from mmnas.errors import ConfigError
from mmnas.genotype import search_space
from mmnas.models.operations import Memory, Sizes, build_blocks
from mmnas.models.published import from_published, our_name
from mmnas.models.relation import Relation
from mmnas.search.architecture import Architecture, alpha_gradient, initial_alphas
from mmnas.search.supernet import Gates, MixedOp, Supernet
from tests.forms import all_forms, plain
from tests.stand_in import (
    fixture,
    fixture_batch,
    fixture_search_space,
    fixture_supernet,
    stand_in_uniform,
    stand_in_weight,
)

SEARCH, SUPERNET, OPERATIONS = fixture("search"), fixture("supernet"), fixture("ops")
NAMES = [f"{case['mode']}-{case['active'][0]}-of-{len(case['candidates'])}" for case in SEARCH["cases"]]
SPACE = search_space(2, 3, SearchConfig().encoder_candidates, SearchConfig().decoder_candidates)


def uniform(tag, *shape, low=-1.0):
    return torch.from_numpy(stand_in_uniform(f"search/{tag}", shape, low, 1).astype(np.float32))


def search_inputs():
    batch, regions, tokens, hidden = (SEARCH[key] for key in ("batch", "regions", "tokens", "hidden_size"))
    embedding = uniform("relation", batch, regions, regions, SEARCH["relation_size"], low=0.0)
    return (
        uniform("x", batch, regions, hidden),
        torch.ones(batch, regions, dtype=torch.bool),
        Memory(uniform("y", batch, tokens, hidden), torch.ones(batch, tokens, dtype=torch.bool)),
        Relation(lambda reader: reader(embedding)),
    )


def candidates_of(case, form=plain):
    """Build the case's candidates with the weights that the fixture was measured with."""
    sizes = Sizes(SEARCH["hidden_size"], SEARCH["relation_size"])
    (candidates,) = form(build_blocks([case["candidates"]], sizes))
    for index, (name, operation) in enumerate(zip(case["candidates"], candidates, strict=True)):
        prefix = f"{SEARCH['parameter_prefix']}candidate_ops.{index}."
        shapes = OPERATIONS["ops"][name]["parameters"]
        weights = {key: stand_in_weight(prefix + key, tuple(shape)) for key, shape in shapes.items()}
        operation.load_state_dict(from_published({key: torch.from_numpy(value) for key, value in weights.items()}))
    return candidates


def gates_of(case):
    values = torch.zeros(len(case["candidates"]))
    values[case["active"]] = 1.0
    return Gates(values.requires_grad_(), case["active"][0], tuple(case["inactive"]))


def gate_gradient(case, gates, candidates):
    output = MixedOp(candidates, gates)(*search_inputs())
    loss = (output * uniform("w", *output.shape)).sum()
    return loss, torch.autograd.grad(loss, gates.values)[0]


@all_forms
@pytest.mark.parametrize("case", SEARCH["cases"], ids=NAMES)
def test_a_mixed_operation_learns_as_the_published_one(case, form):
    """Loss, gate gradients, alpha gradients, alpha after one step of Adam and after the rescaling of mode `two`."""
    candidates, gates = candidates_of(case, form), gates_of(case)
    loss, gradient = gate_gradient(case, gates, candidates)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-4)
    np.testing.assert_allclose(gradient, case["gate_gradient"], rtol=1e-3, atol=1e-4)

    architecture = Architecture(search_space(1, 1, ["gelu"], case["candidates"]), "uniform", seed=0)
    architecture.alphas[1].data.copy_(torch.tensor(case["alpha"]))
    every = [Gates(torch.ones(1), 0, ()), gates]
    architecture.set_gradients(every, [torch.zeros(1), gradient])
    np.testing.assert_allclose(architecture.alphas[1].grad, case["alpha_gradient"], rtol=1e-3, atol=1e-4)
    optimizer = torch.optim.Adam(architecture.parameters(), lr=0.1, betas=(0.0, 0.999))
    architecture.step(optimizer, every, "full")
    np.testing.assert_allclose(architecture.alphas[1].detach(), case["alpha_after_adam"], atol=1e-5)

    architecture.alphas[1].data.copy_(torch.tensor(case["alpha"]))
    architecture.set_gradients(every, [torch.zeros(1), gradient])
    architecture.step(torch.optim.Adam(architecture.parameters(), lr=0.1, betas=(0.0, 0.999)), every, case["mode"])
    np.testing.assert_allclose(architecture.alphas[1].detach(), case["alpha_final"], atol=1e-5)


def test_only_the_gates_learn_from_a_mixed_operation():
    """Weights of inactive candidates have no part in the graph, whatever is asked for."""
    case = SEARCH["cases"][0]
    candidates, gates = candidates_of(case), gates_of(case)
    MixedOp(candidates, gates)(*search_inputs()).sum().backward()
    reached = [any(p.grad is not None for p in operation.parameters()) for operation in candidates]
    assert [index for index, moved in enumerate(reached) if moved] == case["active"]


def test_alpha_gradient_worked_out_by_hand():
    """p = (1/2, 1/2), g = (3, 1): p_i (g_i - mean of g under p) = 1/2 (3 - 2), 1/2 (1 - 2)."""
    np.testing.assert_allclose(alpha_gradient(torch.zeros(2), torch.tensor([3.0, 1.0])), [0.5, -0.5])


@all_forms
@pytest.mark.parametrize("task", ["vqa", "vgd", "itm"])
def test_a_path_through_the_supernet_agrees_with_the_published_one(task, form):
    figures = SUPERNET[task]
    supernet, space = fixture_supernet(task)
    form(supernet)
    names = [*space.encoder, *space.decoder]
    path = [row.index(name) for row, name in zip(names, figures["sampled_path"], strict=True)]
    with torch.inference_mode():
        output = supernet.eval().network(path)(fixture_batch(figures))
    if task == "vgd":
        np.testing.assert_allclose(output[0], figures["outputs"][0], atol=1e-4)
        np.testing.assert_allclose(output[1], figures["outputs"][1], atol=1e-4)
    else:
        output = output[:, 0].sigmoid() if task == "itm" else output
        np.testing.assert_allclose(output, figures["outputs"], atol=1e-4)


def test_the_published_search_starts_where_ours_does():
    alphas = initial_alphas(fixture_search_space(), "prior", seed=0)
    assert [alpha.tolist() for alpha in alphas] == SUPERNET["vqa"]["initial_alphas"]


@all_forms
def test_gates_leave_the_value_of_the_path_as_it_is(form):
    """Gates of 1 and 0 compute what the active path computes, with every candidate's gradient at hand."""
    supernet, space = fixture_supernet("vqa")
    form(supernet)
    supernet.eval()
    architecture = Architecture(space, "uniform", seed=0)
    gates = architecture.draw_gates(np.random.default_rng(0), "full", torch.device("cpu"))
    batch = fixture_batch(SUPERNET["vqa"])
    plain = supernet.network([gate.active for gate in gates])(batch)
    mixed = supernet.gated(gates)(batch)
    torch.testing.assert_close(mixed, plain, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(mixed.sum(), [gate.values for gate in gates])
    assert all(gradient.ne(0).all() for gradient in gradients)
    assert all(parameter.grad is None for parameter in supernet.parameters())


@all_forms
def test_a_path_shares_the_weights_and_leaves_the_tree_as_it_is(form):
    supernet, space = fixture_supernet("vqa")
    form(supernet)
    before = [name for name, _ in supernet.named_modules()]
    network = supernet.network([0] * 30)
    assert type(network) is type(supernet.weights)
    assert network.backbone.encoder[3][0] is supernet.blocks[3][0]
    assert network.relation is None  # the first candidate, SA, reads none
    assert supernet.network([0] * 12 + [1] * 18).relation is supernet.weights.relation
    assert [name for name, _ in supernet.named_modules()] == before
    assert {id(p) for p in network.parameters()} < {id(p) for p in supernet.parameters()}


def test_starts_are_uniform_or_small_noise_of_the_seed():
    assert all(not alpha.any() for alpha in initial_alphas(SPACE, "uniform", seed=0))
    noise, same, other = (torch.cat(initial_alphas(SPACE, "normal", seed)) for seed in (1, 1, 2))
    assert torch.equal(noise, same) and not torch.equal(noise, other)
    assert 0 < noise.abs().max() < 0.01


class Copies(TorchDispatchMode):
    """Counts the operations that copy from the CPU to another device; here the meta device plays the GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        self.count += "copy" in function.overloadpacket.__name__ and result.is_meta
        return result


@pytest.mark.parametrize("mode", ["full", "two"])
def test_the_gates_of_all_blocks_reach_the_device_in_one_copy(mode):
    architecture = Architecture(fixture_search_space(), "uniform", seed=0)
    with Copies() as copies:
        far = architecture.draw_gates(np.random.default_rng(0), mode, torch.device("meta"))
    assert copies.count == 1 and len(far) == 30
    near = architecture.draw_gates(np.random.default_rng(0), mode, torch.device("cpu"))
    for gate, same in zip(near, far, strict=True):
        assert (gate.active, gate.inactive) == (same.active, same.inactive)
        assert gate.values.is_leaf and gate.values.requires_grad and same.values.is_meta
        assert gate.values.tolist() == [float(index == gate.active) for index in range(len(gate.values))]


def test_mode_two_draws_two_candidates_and_more_probable_ones_more_often():
    architecture = Architecture(SPACE, "uniform", seed=0)
    architecture.alphas[2].data.copy_(torch.tensor([3.0, 0.0, 0.0, 0.0]))
    rng = np.random.default_rng(0)
    draws = [architecture.draw_gates(rng, "two", torch.device("cpu"))[2] for _ in range(300)]
    assert all(len(gate.inactive) == 1 and gate.active not in gate.inactive for gate in draws)
    # softmax(3, 0, 0, 0) gives the first 0.87; among the pair it is then taken with 0.95.
    assert 0.80 < np.mean([gate.active == 0 for gate in draws]) < 0.98


def test_drawn_paths_follow_the_probabilities():
    architecture = Architecture(SPACE, "prior", seed=0)
    rng = np.random.default_rng(0)
    first = np.mean([architecture.draw(rng)[0] == 0 for _ in range(500)])
    assert first == pytest.approx(architecture.probabilities()[0][0], abs=0.06)  # e / (e + 1/e) = 0.88


def test_a_candidate_that_cannot_stand_in_its_stream_is_named():
    with pytest.raises(ConfigError, match="'guided_att_64' reads the memory"):
        search_space(1, 1, ["guided_att_64"], ["feed_forward"])
    with pytest.raises(ConfigError, match="unknown operation 'conv'"):
        search_space(1, 1, ["conv"], ["feed_forward"])


def test_every_weight_of_the_fixture_has_its_place():
    supernet, _ = fixture_supernet("vqa")
    ours = set(supernet.weights.state_dict())
    assert {our_name(name) for name in from_published(SUPERNET["vqa"]["state_dict_shapes"])} == ours


def test_a_supernet_is_built_by_the_tasks_own_builder():
    assert isinstance(fixture_supernet("itm")[0], Supernet)
