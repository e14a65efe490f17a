"""Training steps on simulated CUDA tensors, which have types and shapes but no numbers.

    python -m tests.models.simulated_gpu LIBRARY

prints as JSON what steps of the small networks in bf16 launch on a GPU and wait for. What torch for a CPU lacks has
stand-ins: a device (`DEVICE`, compiled to LIBRARY, which is loaded before torch), the fused attention, and
cuDNN's LSTM.
"""

import ctypes
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

DEVICE = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
using c10::Device, c10::DeviceIndex, c10::DeviceType, c10::Stream;
const Device gpu(DeviceType::CUDA, 0);
struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device exchangeDevice(Device) const override { return gpu; }
  Device getDevice() const override { return gpu; }
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, gpu); }
  void record(void**, const Stream&, DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
namespace at {
struct Hooks final : CUDAHooksInterface {
  Hooks(CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks);
}
"""
SAMPLES, REGIONS, TOKENS, WORDS, ANSWERS = 64, 37, 7, 2000, 3129
# Kernels of an operation that launches several.
KERNELS = {
    "constant_pad_nd": 2,
    "native_layer_norm_backward": 2,
    "_scaled_dot_product_efficient_attention_backward": 3,
    "embedding_dense_backward": 8,
    "lstm": 0,  # cuDNN's own, about 80 with the backward pass
    "lstm_backward": 0,
}
NO_KERNEL = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "detach"}
WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "masked_select"}


def compile_device(folder: Path) -> Path:
    """Compile `DEVICE` with the system's compiler; return the library."""
    torch = Path(importlib.util.find_spec("torch").submodule_search_locations[0])
    source, library = folder / "device.cpp", folder / "device.so"
    source.write_text(DEVICE)
    links = [f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
    options = ["-shared", "-fPIC", "-O0", "-std=c++20", f"-I{torch / 'include'}"]
    subprocess.run(["g++", *options, str(source), "-o", str(library), *links], check=True, capture_output=True)
    return library


def simulate(library: str) -> dict[str, dict]:
    """Return what a training step of each task asks of a GPU, that of VQA with the plain modules, and a report."""
    ctypes.CDLL(library)
    import torch

    torch.autograd.set_multithreading_enabled(False)
    torch.cuda.is_available = torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.cuda.current_device = lambda: 0
    torch.cuda.device_count = lambda: 1
    from torch._subclasses.fake_tensor import FakeTensorMode

    from mmnas.models.gpu import use_gpu_kernels

    _stand_in_kernels(torch)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        done = {name: _step(torch, name, use_gpu_kernels) for name in ("vqa", "vgd", "itm")}
        done["plain"] = _step(torch, "vqa", lambda network: None)
        with _counter(torch) as report:
            torch.stack([torch.zeros(2), torch.zeros(2)]).cpu()
    return {**done, "reported": {"waits": dict(report.waits)}}


def _step(torch, name, convert) -> dict:
    """Return what both passes of a training step launch, and what the whole step waits for."""
    from mmnas.config import load_config
    from mmnas.engine.distributed import Group
    from mmnas.engine.optimizer import optimizer_of
    from mmnas.engine.steps import add_gradients
    from mmnas.engine.trainer import Trainer
    from mmnas.tasks import task_named
    from tests.stand_in import shipped_genotype

    kind = task_named(name)
    overrides = {"training.precision": "bf16"}
    task = kind(kind.settle(load_config(name, "small", split=kind.splits[0], version="a", overrides=overrides)))
    task.vocabularies = {"tokens": ["word"] * WORDS, "answers": ["answer"] * ANSWERS}
    network = task.build_model(shipped_genotype(f"train_{name}"), pretrained_words=False).train()
    convert(network)
    batch, device = _batch(torch, name), torch.device("cuda")
    with _counter(torch) as passes:
        add_gradients(task, network, batch, device)
    trainer = SimpleNamespace(
        task=task, model=network, parallel=network, config=task.config, group=Group(device=device),
        optimizer=optimizer_of(network, task.config),
    )  # fmt: skip
    with _counter(torch) as step:
        Trainer._take_step(trainer, batch, 0, 1e-4)
    launches = dict(passes.kernels.most_common())
    return {"launches": passes.kernels.total(), "waits": dict(step.waits), "kernels": launches}


def _counter(torch):
    """Return a mode that counts kernels by operation, and what makes the CPU wait for the GPU."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.kernels, self.waits = Counter(), Counter()

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            keywords = keywords or {}
            name = function.overloadpacket.__name__
            output = function(*arguments, **keywords)
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            given = arguments[0] if arguments else None
            if name in ("_to_copy", "copy_"):
                source, target = (given, output) if name == "_to_copy" else (arguments[1], given)
                asynchronous = keywords.get("non_blocking") or (len(arguments) > 2 and arguments[2])
                if source.device != target.device and not (asynchronous and target.is_cuda):
                    self.waits[f"copy to {target.device.type}"] += 1
            if name in WAITING and given.is_cuda:
                self.waits[name] += 1
            view = any(value.alias_info and not value.alias_info.is_write for value in function._schema.returns)
            if not view and name not in NO_KERNEL and getattr(first, "is_cuda", False):
                self.kernels[name] += -(-len(given) // 128) if name == "cat" else KERNELS.get(name, 1)
            return output

    return Counting()


def _batch(torch, name):
    """Return a batch of a task, without numbers."""

    def floats(*shape):
        return torch.rand(SAMPLES, *shape)

    def yes(*shape):
        return torch.ones(SAMPLES, *shape, dtype=torch.bool)

    numbers = torch.zeros(SAMPLES, 2, dtype=torch.int64)
    return {
        "features": floats(REGIONS, 2048), "boxes": floats(REGIONS, 4), "image_sizes": floats(2),
        "region_mask": yes(REGIONS), "tokens": numbers[:, :1].expand(-1, TOKENS), "token_mask": yes(TOKENS),
        "index": numbers[:, 0], "answer_scores": floats(ANSWERS), "region_scores": floats(REGIONS),
        "score_weight": floats(), "region_offsets": floats(REGIONS, 4), "region_matches": yes(REGIONS),
        "image_rows": numbers, "caption_rows": numbers,
    }  # fmt: skip


def _stand_in_kernels(torch) -> None:
    """Put the outlines of CUDA's fused attention and of cuDNN's LSTM in the place of what a CPU would run."""
    from torch.nn import functional as F

    def attention(query, key, value, bias=None, p=0.0):
        kinds = [
            torch.bfloat16 if torch.is_autocast_enabled("cuda") else each.dtype for each in (query, key, value)
        ]
        query, key, value = (each.to(kind) for each, kind in zip((query, key, value), kinds, strict=True))
        if bias is not None:
            assert bias.dtype == query.dtype, "a mask of another type is misread"
            if any(stride % 16 for stride in bias.stride()[:-1]):  # rows must start at multiples of 16
                bias = F.pad(bias, (0, -bias.shape[-1] % 16 or 16))[..., : bias.shape[-1]]
            bias = bias.expand(*query.shape[:-1], key.shape[-2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, query.requires_grad, p
        )[0]

    library = torch.library.Library("simulated", "DEF")
    library.define("lstm(Tensor x, Tensor weight) -> Tensor")
    library.define("lstm_backward(Tensor gradient, Tensor x, Tensor[] weights) -> Tensor[]")
    kind = "CompositeExplicitAutograd"
    library.impl("lstm", lambda x, weight: x.new_empty(*x.shape[:-1], weight.shape[1]), kind)
    library.impl("lstm_backward", lambda _, x, weights: [torch.empty_like(each) for each in (x, *weights)], kind)
    simulate.library = library  # which lives as long as something holds it

    class LSTM(torch.autograd.Function):
        @staticmethod
        def forward(context, x, *weights):
            context.save_for_backward(x, *weights)
            return torch.ops.simulated.lstm(x, weights[1])

        @staticmethod
        def backward(context, gradient):
            x, *weights = context.saved_tensors
            return tuple(torch.ops.simulated.lstm_backward(gradient, x, weights))

    F.scaled_dot_product_attention = attention
    torch.nn.LSTM.forward = lambda self, x: (LSTM.apply(x, *self._flat_weights), None)


if __name__ == "__main__":
    print(json.dumps(simulate(sys.argv[1])))
