"""What stays in float32 under autocast: what runs outside of it on a CPU does so on a GPU, too."""

from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmnas.config import TrainingConfig, load_config
from mmnas.models.operations import ParallelOperations
from mmnas.models.precision import in_float32, use_precision
from mmnas.models.relation import RelationReader
from mmnas.run.plan import Plan
from mmnas.run.session import prepare
from mmnas.tasks import task_named
from tests.forms import all_forms
from tests.stand_in import fixture, fixture_batch, fixture_network, shipped_genotype

TASKS = pytest.mark.parametrize("task", ["vqa", "vgd", "itm"])


def network_and_batch(task, form):
    figures = fixture(task)
    batch = fixture_batch(figures, **figures.get("targets", {}))
    return form(fixture_network(figures).eval()), batch


def run(network, batch):
    """Return the head's outputs in a tuple, computed under autocast."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = network(batch)
    return output if isinstance(output, tuple) else (output,)


def rounded(values):
    """Whether values are those that bfloat16 has."""
    return torch.equal(values, values.bfloat16().float())


@all_forms
@TASKS
def test_the_lstm_runs_in_float32_outside_of_autocast(task, form):
    network, batch = network_and_batch(task, form)
    seen = []

    def look(module, inputs, output):
        seen.append((inputs[0].dtype, output[0].dtype, torch.is_autocast_enabled("cpu")))

    network.token_stem.lstm.register_forward_hook(look)
    run(network, batch)
    assert set(seen) == {(torch.float32, torch.float32, False)}
    with torch.autocast("cpu", torch.bfloat16):
        half = network.token_stem(batch["tokens"])
    assert torch.equal(half, network.token_stem(batch["tokens"]))


@all_forms
@TASKS
def test_scores_and_boxes_are_float32_and_not_rounded_to_less(task, form):
    network, batch = network_and_batch(task, form)
    for output in run(network, batch):
        assert output.dtype == torch.float32 and not rounded(output)


@all_forms
def test_near_scores_do_not_tie(form):
    """A classifier whose answers differ by less than bfloat16 can tell."""
    network, batch = network_and_batch("vqa", form)
    with torch.no_grad():
        network.head.classifier.weight.zero_()
        network.head.classifier.bias.copy_(1 + 1e-5 * torch.arange(network.head.classifier.out_features))
    (logits,) = run(network, batch)
    assert (logits.diff(dim=1) > 0).all()


@all_forms
@TASKS
def test_gradients_pass_what_stays_in_float32(task, form):
    network, batch = network_and_batch(task, form)
    with torch.autocast("cpu", torch.bfloat16):
        output = network.train()(batch)
    parts = output if isinstance(output, tuple) else (output,)
    sum((part.clamp(min=-100) ** 2).sum() for part in parts).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name


def test_relation_biases_are_logarithms_of_float32_sums():
    torch.manual_seed(0)
    reader, relation = RelationReader(16, 4), torch.rand(2, 5, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reader(relation), reader(relation.bfloat16().float())) is False
        bias = reader(relation)
    torch.testing.assert_close(bias, reader(relation), rtol=0, atol=0)


class Doubled(nn.Module):
    @in_float32
    def forward(self, x, mask):
        return x @ x.T, mask


def test_without_autocast_every_dtype_stays():
    mask = torch.tensor([True])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert Doubled()(torch.ones(2, 2, dtype=dtype), mask)[0].dtype == dtype
    assert Doubled()(torch.ones(2, 2, device="meta"), mask)[0].is_meta
    with torch.autocast("cpu", torch.bfloat16):
        product, same = Doubled()(torch.ones(2, 2, dtype=torch.bfloat16), mask)
    assert product.dtype == torch.float32 and same is mask


class Kernels(TorchDispatchMode):
    """Notes the names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_outputs_of_a_row_add_up_without_a_zero(count):
    class Same(nn.Module):
        def forward(self, x: Tensor, *_: object) -> Tensor:
            return x

    with Kernels() as kernels:
        output = ParallelOperations([Same() for _ in range(count)])(torch.ones(2, 3, 4), None, None, None)
    assert kernels.names.count("add") == count - 1 and (output == count).all()


@pytest.fixture
def backends():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, torch.backends.cuda.cudnn_sdp_enabled()
    yield matmul, cudnn
    matmul.allow_tf32, cudnn.allow_tf32 = before[:2]
    torch.backends.cuda.enable_cudnn_sdp(before[2])


@pytest.mark.parametrize("precision", get_args(get_type_hints(TrainingConfig)["precision"]))
@pytest.mark.parametrize("before", [(False, True), (True, False), (True, True), (False, False)])
def test_tf32_is_on_for_all_operations_or_for_none(precision, before, backends):
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed
    torch.backends.cuda.enable_cudnn_sdp(True)
    use_precision(precision)
    assert {backend.allow_tf32 for backend in backends} == {precision == "tf32"}
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_run_sets_the_precision_before_it_builds_the_network(backends):
    """The run stops where it would build the network; the setting has been made."""

    class Built(Exception):
        pass

    class Stops(task_named("vqa")):
        def build_vocabularies(self):
            raise Built

    for backend in backends:
        backend.allow_tf32 = False
    config = load_config("vqa", "tiny", split="train", version="a", overrides={"training.precision": "tf32"})
    with pytest.raises(Built):
        prepare(Stops(config), Plan("train", config, shipped_genotype("train_vqa")))
    assert all(backend.allow_tf32 for backend in backends)
