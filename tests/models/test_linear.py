"""Linear and dropout on a CPU are torch's own in value and gradient, whichever library multiplies."""

import pytest
import torch
import torch.nn.functional as F

from mmnas.models.linear import Dropout, Linear, linear


def tensors(*shape, inputs=6, outputs=5, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
    given = [x, weight, torch.randn(outputs, dtype=dtype)] if bias else [x, weight]
    return [tensor.requires_grad_() for tensor in given]


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (2, 3, 4), (0, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_torchs(shape, bias):
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
    ours = Linear(3, 2)
    torch.manual_seed(0)
    theirs = torch.nn.Linear(3, 2)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_that_share_and_scales_the_rest(share):
    torch.manual_seed(0)
    x = torch.ones(401, 503, requires_grad=True)  # no multiple of the four that are drawn at a time
    output = Dropout(share)(x)
    dropped = output == 0
    assert dropped.float().mean().item() == pytest.approx(share, abs=0.005)  # the standard deviation is 0.001
    kept = output[~dropped]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - share)), rtol=2e-4, atol=0)
    output.sum().backward()
    assert torch.equal(x.grad, output.detach())


def test_dropout_draws_each_value_apart():
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(4, 50_000)) == 0).float()
    assert torch.corrcoef(dropped).sub(torch.eye(4)).abs().max() < 0.03
    runs = dropped.view(-1, 4)
    assert torch.corrcoef(runs.T).sub(torch.eye(4)).abs().max() < 0.03


def test_dropout_follows_the_seed_and_rests_in_evaluation():
    layer, x = Dropout(0.5), torch.randn(64)
    torch.manual_seed(3)
    first = layer(x)
    second = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_dropout_of_nothing_and_of_everything(share):
    assert torch.equal(Dropout(share)(torch.ones(8)), torch.full((8,), 1.0 - share))
