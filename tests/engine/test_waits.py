"""A training step asks its device for nothing, the loop once in many steps: a GPU would have to finish everything.

Counted on a CPU, at the level of Python calls and at that of operations, where calls hide within others.
"""

from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmnas.config import load_config
from mmnas.engine import loop
from mmnas.engine.distributed import Group
from mmnas.engine.trainer import Trainer
from mmnas.genotype import Genotype
from mmnas.tasks import task_named
from tests.conftest import GENOTYPE
from tests.stand_in import NoScalars

CALLS = {"cpu", "item", "tolist", "numpy", "nonzero", "unique", "masked_select", "__array__", "equal"}
CALLS |= {f"__{name}__" for name in ("bool", "float", "int", "index", "contains")}
OPERATIONS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "equal"}


def tensors_in(*values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class Calls(TorchFunctionMode):
    """Counts the calls that wait for the device of a tensor; what was fetched by `cpu` is on the host."""

    def __init__(self):
        super().__init__()
        self.found, self.host = Counter(), []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        given, name = tensors_in(args, kwargs), function.__name__
        on_host = bool(given) and all(any(each is known for known in self.host) for each in given)
        if name in CALLS and not on_host:
            self.found[name] += 1
        if name == "cpu" or on_host:
            self.host += tensors_in(output)
        return output


class Operations(TorchDispatchMode):
    """Counts the operations that wait for their device, those of indexing by a mask included."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(each.dtype == torch.bool for each in tensors_in(args[1]))
        sized = name == "repeat_interleave" and not (kwargs or {}).get("output_size")
        if name in OPERATIONS or by_mask or sized:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def trainer_of(name, world, folder, parts):
    """A trainer of a small network on the demo world."""
    sizes = {"hidden_size": 64, "pooling_size": 32, "pooled_size": 64, "relation_size": 16}
    settings = {"epochs": 1, "workers": 0, "batch_size": 8, "random_negative_epochs": 1, "accumulate": parts}
    overrides = {f"model.{key}": value for key, value in sizes.items()}
    overrides |= {f"training.{key}": value for key, value in settings.items()}
    overrides |= {"paths.data": str(world), "paths.logs": str(folder), "data.answer_min_count": 1}
    kind = task_named(name)
    task = kind(kind.settle(load_config(name, "tiny", split="train", version="x", overrides=overrides)))
    task.vocabularies = task.build_vocabularies()
    genotype = Genotype.from_dict(GENOTYPE)
    network = task.build_model(genotype, pretrained_words=False)
    return Trainer(task, network, genotype, Group(), folder / "checkpoints", False)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", ["vqa", "vgd", "itm"])
def test_steps_wait_for_nothing_and_losses_are_fetched_once_in_many(name, parts, few_images, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_EVERY", 3)
    trainer = trainer_of(name, few_images, tmp_path, parts)
    trainer.evaluator = None  # which scores val at the end
    steps, reports, taken = [], [], 4
    trainer.sampler.size = 8 * taken
    step, report = trainer._take_step, trainer._report

    def counted_step(*args):
        with Calls() as calls, Operations() as operations:
            output = step(*args)
        steps.append((calls.found, operations.found))
        return output

    def counted_report(*args):
        with Calls() as calls:
            loss = report(*args)
        reports.append(dict(calls.found))
        return loss

    monkeypatch.setattr(trainer, "_take_step", counted_step)
    monkeypatch.setattr(trainer, "_report", counted_report)
    trainer.fit(NoScalars())
    assert steps == [(Counter(), Counter())] * taken
    assert reports == [{"cpu": 1}] * 2  # after three steps, and at the end of the epoch


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.item(),
        lambda x: float(x),
        lambda x: bool(x > 0),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x[None][x[None] > 0],
        lambda x: x[None].masked_select(x[None] > 0),
        lambda x: torch.nn.functional.one_hot(x.long()),  # asks for the largest number by itself
    ],
)
def test_what_waits_is_found(wait):
    x = torch.tensor(1.0)
    with Calls() as calls, Operations() as operations:
        wait(x)
    assert calls.found.total() + operations.found.total() > 0
    with Calls() as calls:
        assert x.cpu().sum().item() == 1.0
    assert calls.found == {"cpu": 1}
