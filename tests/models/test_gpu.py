"""What is fast on a GPU gives what the plain modules do, launches fewer kernels, and waits for none of them."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from mmnas.genotype import Genotype
from mmnas.models.gpu import ALIGNMENT, GPUAttention, GPUNetwork, mask_bias, use_gpu_kernels
from tests.conftest import ROOT
from tests.models.simulated_gpu import compile_device
from tests.stand_in import fixture, fixture_batch, fixture_network, fixture_supernet, fixture_task

TASKS = pytest.mark.parametrize("name", ["vqa", "vgd", "itm"])
MOST_LAUNCHES = {"vqa": 1050, "vgd": 1050, "itm": 1050}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """What training steps ask of a simulated GPU, by task, and that of the plain network of VQA."""
    if shutil.which("g++") is None:
        pytest.skip("a simulated GPU needs a compiler")
    library = compile_device(tmp_path_factory.mktemp("device"))
    command = [sys.executable, "-m", "tests.models.simulated_gpu", str(library)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


@TASKS
def test_a_training_step_launches_few_kernels(simulated, name):
    assert simulated[name]["launches"] <= MOST_LAUNCHES[name]
    assert simulated["plain"]["launches"] > 1400


@TASKS
def test_a_training_step_never_waits_for_the_gpu(simulated, name):
    assert simulated[name]["waits"] == {}


def test_what_waits_is_found(simulated):
    assert simulated["reported"]["waits"] == {"copy to cpu": 1}


def converted(name, **changes):
    figures = fixture(name)
    batch = fixture_batch(figures, **figures.get("targets", {}))
    network = fixture_network(figures, **changes).train()
    return network, batch


def outputs_and_gradients(network, batch, bf16):
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = network(batch)
    parts = output if isinstance(output, tuple) else (output,)
    network.zero_grad()
    sum((part.clamp(min=-100) ** 2).sum() for part in parts).backward()
    return [part.detach() for part in parts], {name: value.grad for name, value in network.named_parameters()}


@TASKS
@pytest.mark.parametrize("bf16", [False, True])
def test_outputs_and_gradients_are_those_of_the_plain_network(name, bf16):
    network, batch = converted(name)
    expected, gradients = outputs_and_gradients(network, batch, bf16)
    use_gpu_kernels(network)
    assert isinstance(network, GPUNetwork)
    found, own = outputs_and_gradients(network, batch, bf16)
    torch.testing.assert_close(found, expected, rtol=0.03 if bf16 else 1e-5, atol=0.03 if bf16 else 1e-5)
    for key, gradient in gradients.items():
        apart, size = (own[key] - gradient).norm(), gradient.norm()
        assert apart <= (0.1 if bf16 else 1e-4) * size + 1e-6, key


def test_weights_are_lent_for_a_forward_pass_alone():
    network, batch = converted("vqa")
    state = {name: value.data_ptr() for name, value in network.state_dict().items()}
    use_gpu_kernels(network)
    before = [set(vars(module)) for module in network.modules()]
    network(batch)
    with pytest.raises(KeyError):
        network({"tokens": batch["tokens"]})
    assert [set(vars(module)) - {"readers", "_borrowers"} for module in network.modules()] == before
    assert {name: value.data_ptr() for name, value in network.state_dict().items()} == state


def test_a_path_of_a_search_leaves_other_candidates_without_gradients():
    supernet, space = fixture_supernet("vqa")
    use_gpu_kernels(supernet)
    path = [0] * len(supernet.blocks)
    batch = fixture_batch({**fixture("supernet"), **fixture("supernet")["vqa"]})
    supernet.network(path).train()(batch).sum().backward()
    for block in supernet.blocks:
        taken, *others = ([value.grad is not None for value in operation.parameters()] for operation in block)
        assert all(taken) and not any(map(any, others))


def test_mask_biases_are_made_once_and_aligned():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    bias = mask_bias(mask)
    assert mask_bias(mask) is bias and mask_bias(mask.clone()) is not bias
    assert bias.shape == (2, 1, 1, 3) and bias.stride(0) == ALIGNMENT
    assert bias[:, 0, 0].eq(0).tolist() == mask.tolist()
    with torch.autocast("cpu", torch.bfloat16):
        assert mask_bias(mask).dtype == torch.bfloat16


def test_attention_joins_its_weights_only_when_lent():
    torch.manual_seed(0)
    layer = GPUAttention(8, 8, 4, 0.0)
    x, source = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    expected = layer(x, x), layer(x, source)
    layer.joined = torch.cat([layer.query.weight, layer.key.weight, layer.value.weight])
    torch.testing.assert_close((layer(x, x), layer(x, source)), expected)


def test_training_under_autocast_learns():
    network, batch = converted("vqa")
    use_gpu_kernels(network)
    task, losses = fixture_task(fixture("vqa")), []
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(task.loss(network, batch)["total"])
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]


@TASKS
def test_a_batch_that_was_scored_can_be_trained_on(name):
    network, batch = converted(name)
    use_gpu_kernels(network)
    with torch.inference_mode():
        network(batch)
    _, gradients = outputs_and_gradients(network, batch, bf16=False)
    assert all(gradient is not None for gradient in gradients.values())


def test_blocks_without_a_norm():
    skip = (("skip_connect",),)
    network = fixture_network(fixture("vqa"), Genotype(skip, skip))
    batch = fixture_batch(fixture("vqa"))
    expected = network(batch)
    use_gpu_kernels(network)
    torch.testing.assert_close(network(batch), expected)
