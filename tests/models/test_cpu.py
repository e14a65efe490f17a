"""What is fast on a CPU gives what the plain modules do, in value and gradient, and keeps their names."""

import pytest
import torch
import torch.nn.functional as F

from mmnas.models import cpu
from mmnas.models.cpu import FastDropout, FastLinear, FastNetwork, linear, use_cpu_kernels
from mmnas.models.layers import MLP
from tests.stand_in import fixture, fixture_batch, fixture_network, fixture_task


def tensors(*shape, inputs=6, outputs=5, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    given = [x, weight, torch.randn(outputs, dtype=dtype)] if bias else [x, weight]
    return [tensor.requires_grad_() for tensor in given]


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (2, 3, 4), (0, 3)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mkl_is_fast", [True, False])
def test_values_and_gradients_are_torchs(monkeypatch, shape, bias, mkl_is_fast):
    monkeypatch.setattr(cpu, "_mkl_is_fast", lambda: mkl_is_fast)
    given = tensors(*shape, bias=bias)
    found, expected = linear(*given), F.linear(*given)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    gradients = (torch.autograd.grad((output * weight).sum(), given) for output in (found, expected))
    for here, there in zip(*gradients, strict=True):
        torch.testing.assert_close(here, there)


def test_inputs_that_are_not_contiguous():
    x, weight, bias = tensors(3, 4)
    torch.testing.assert_close(linear(x.transpose(0, 1), weight, bias), F.linear(x.transpose(0, 1), weight, bias))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_asks_for_no_gradient_gets_none(frozen):
    given = tensors(4)
    given[frozen].requires_grad_(False)
    linear(*given).sum().backward()
    assert [tensor.grad is None for tensor in given] == [place == frozen for place in range(3)]


def test_other_precisions_and_autocast_stay_torchs():
    given = tensors(4, dtype=torch.float64)
    torch.testing.assert_close(linear(*given), F.linear(*given))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(*tensors(4)).dtype == torch.bfloat16


def test_layer_has_the_parameters_of_torchs():
    torch.manual_seed(0)
    ours = FastLinear(3, 2)
    torch.manual_seed(0)
    theirs = torch.nn.Linear(3, 2)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_that_share_and_scales_the_rest(share):
    torch.manual_seed(0)
    x = torch.ones(401, 503, requires_grad=True)  # no multiple of the four that are drawn at a time
    output = FastDropout(share)(x)
    dropped = output == 0
    assert dropped.float().mean().item() == pytest.approx(share, abs=0.005)  # the standard deviation is 0.001
    kept = output[~dropped]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - share)), rtol=2e-4, atol=0)
    output.sum().backward()
    assert torch.equal(x.grad, output.detach())


def test_dropout_draws_each_value_apart():
    torch.manual_seed(0)
    dropped = (FastDropout(0.5)(torch.ones(4, 50_000)) == 0).float()
    assert torch.corrcoef(dropped).sub(torch.eye(4)).abs().max() < 0.03
    runs = dropped.view(-1, 4)
    assert torch.corrcoef(runs.T).sub(torch.eye(4)).abs().max() < 0.03


def test_dropout_follows_the_seed_and_rests_in_evaluation():
    layer, x = FastDropout(0.5), torch.randn(64)
    torch.manual_seed(3)
    first = layer(x)
    second = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_dropout_of_nothing_and_of_everything(share):
    assert torch.equal(FastDropout(share)(torch.ones(8)), torch.full((8,), 1.0 - share))


@pytest.mark.parametrize("name", ["vqa", "vgd", "itm"])
def test_a_network_is_converted_in_place(name):
    figures = fixture(name)
    network = fixture_network(figures)
    before = {key: value.data_ptr() for key, value in network.named_parameters()}
    kinds = [type(module) for module in network.modules()]
    use_cpu_kernels(network)
    assert {key: value.data_ptr() for key, value in network.named_parameters()} == before
    assert list(network.state_dict()) == list(fixture_network(figures).state_dict())
    assert isinstance(network, FastNetwork) and torch.nn.Linear in kinds
    assert not {torch.nn.Linear, torch.nn.Dropout, MLP} & {type(module) for module in network.modules()}
    use_cpu_kernels(network)  # once more changes nothing
    assert isinstance(network, FastNetwork)


@pytest.mark.parametrize("name", ["vqa", "vgd"])
def test_both_forms_have_the_same_gradients(name):
    figures = fixture(name)
    batch = fixture_batch(figures) if name == "vgd" else fixture_batch(figures, **figures["targets"])
    gradients = []
    for convert in (lambda network: None, use_cpu_kernels):
        torch.manual_seed(0)
        network = fixture_network(figures)
        convert(network)
        output = network.train()(batch)
        parts = output if isinstance(output, tuple) else (output,)
        sum((part.clamp(min=-100) ** 2).sum() for part in parts).backward()
        gradients.append({key: value.grad for key, value in network.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-3, atol=1e-4, msg=key)


def test_autocast_is_as_in_the_plain_form():
    figures = fixture("vqa")
    torch.manual_seed(0)
    network, batch = fixture_network(figures).eval(), fixture_batch(figures, **figures["targets"])
    outputs = []
    for _ in range(2):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            outputs.append(network(batch))
        use_cpu_kernels(network)
    torch.testing.assert_close(outputs[1], outputs[0])
    with torch.autocast("cpu", torch.bfloat16):
        loss = fixture_task(figures).loss(network.train(), batch)["total"]
    loss.backward()
    assert all(torch.isfinite(value.grad).all() for value in network.parameters())
