"""What must hold on a GPU for a network: the sections of `benchmarks.gpu` that check its figures.

The published figures and their stand-in weights are those of `tests/parity`.
"""

import contextlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_report import Report, largest_difference, relative_difference
from mmnas.batch import Batch
from mmnas.engine.distributed import Group
from mmnas.engine.trainer import Trainer
from mmnas.genotype import Genotype
from mmnas.models.gpu import use_gpu_kernels
from mmnas.models.pair_scorer import PairScorer
from mmnas.models.published import from_published
from tests.stand_in import (
    Batches,
    NoScalars,
    fixture,
    fixture_batch,
    fixture_config,
    fixture_network,
    fixture_task,
    one_batch_task,
    published_state,
)

MOST_APART = {"fp32": 5e-3, "bf16": 4e-2}  # losses of 24 steps, from the published ones
TASKS = ("vqa", "vgd", "itm")
# Queries, keys, whether there is a relation: sizes of training, with odd ones and 64, where kernels had faults.
ATTENTIONS = ((37, 37, True), (37, 37, False), (40, 9, False), (64, 64, True), (64, 64, False), (100, 100, True))


def published_case(name: str, device: torch.device) -> tuple[dict, nn.Module, Batch]:
    """Return a task's published figures, the network with their weights, and a training batch."""
    figures = fixture(name)
    network = fixture_network(figures)
    network.load_state_dict(from_published(published_state(figures), network.relation is not None))
    if name == "itm":
        positive, negative = fixture_batch(figures), fixture_batch(figures | figures["negative"])
        rows = torch.arange(2 * len(positive["index"])).view(2, -1).T
        batch = {key: torch.cat([positive[key], negative[key]]) for key in positive if key != "index"}
        batch |= {"index": positive["index"], "image_rows": rows, "caption_rows": rows}
    elif name == "vgd":
        found = figures["targets"]
        batch = fixture_batch(
            figures,
            region_scores=found["score_targets"],
            score_weight=np.array(found["score_mask"])[:, 0],
            region_offsets=found["box_targets"],
        )
        batch["region_matches"] = torch.tensor(found["box_mask"])[..., 0].bool()
    else:
        batch = fixture_batch(figures, answer_scores=figures["targets"]["answer_scores"])
    return figures, network.to(device), {key: tensor.to(device) for key, tensor in batch.items()}


def outputs(name: str, network: nn.Module, batch: Batch) -> list[Tensor]:
    """Return what a network gives in evaluation mode for the images and texts that belong together."""
    count = len(batch["index"])
    found = network.eval()({key: value[:count] for key, value in batch.items() if not key.endswith("_rows")})
    if name == "itm":
        return [found.float().sigmoid()[:, 0]]
    return list(found) if isinstance(found, tuple) else [found]


def parity(report: Report) -> None:
    """Compare outputs and the losses of 24 steps with the published ones."""
    for name in TASKS:
        figures, network, batch = published_case(name, report.device)
        names = {"vqa": ("logits",), "vgd": ("scores", "boxes"), "itm": ("probabilities",)}[name]
        with torch.inference_mode():
            exact = outputs(name, network, batch)
            with report.autocast():
                low = outputs(name, network, batch)
        for key, value, rough in zip(names, exact, low, strict=True):
            apart = largest_difference(value, torch.tensor(figures["outputs"][key]).view(value.shape))
            note = f"{apart:.1e}; bf16 differs by {largest_difference(rough, value):.1e}"
            report.check(f"{name} {key}, fp32, are the published ones", apart < 1e-4, note)
        for precision in report.pick(tuple(MOST_APART), ("bf16",) if name == "vqa" else ()):
            losses = _losses_of_steps(report, name, precision)
            apart = float(np.abs(np.array(losses) / np.array(figures["training"]["losses"]) - 1).max())
            good = apart < MOST_APART[precision]
            report.check(f"{name} losses of 24 steps, {precision}", good, f"{apart:.1e} of {MOST_APART[precision]}")


def _losses_of_steps(report: Report, name: str, precision: str) -> list[float]:
    figures, network, batch = published_case(name, report.device)
    if precision == "bf16":
        use_gpu_kernels(network)
    folder = report.folder / f"parity_{name}_{precision}"
    task = one_batch_task(name)(fixture_config(figures, folder, **{"training.precision": precision}))
    task.vocabularies = fixture_task(figures).vocabularies
    genotype = Genotype.from_dict(figures["genotype"])
    trainer = Trainer(task, network, genotype, Group(device=report.device), folder / "checkpoints", False)
    trainer.loader = Batches([batch] * figures["training"]["epoch_steps"])
    with report.silence():
        trainer.fit(NoScalars())
    return task.losses


def kernels(report: Report) -> None:
    """Compare outputs and gradients of `models/gpu.py` with those of the plain network on the device."""
    for name in TASKS:
        for low in False, True:
            found = []
            for convert in (lambda _: None), use_gpu_kernels:
                figures, network, batch = published_case(name, report.device)
                convert(network)
                with report.autocast(low):
                    loss = fixture_task(figures).loss(network.train(), batch)["total"]
                loss.backward()
                found.append(torch.cat([value.grad.flatten() for value in network.parameters()]))
            apart, most = relative_difference(found[1], found[0]), 5e-2 if low else 1e-4
            kind = "bf16" if low else "fp32"
            report.check(f"{name} gradients of joined kernels, {kind}", apart < most, f"{apart:.1e} of {most:.0e}")


def pairs(report: Report) -> None:
    """Compare scores of pairs with the plain forward pass, whatever the memory budget."""
    _, network, batch = published_case("itm", report.device)
    network.eval()
    images = {key: batch[key] for key in ("features", "boxes", "image_sizes", "region_mask")}
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8], [9, 3, 4]], device=report.device)
    rows = torch.arange(len(batch["features"]), device=report.device).expand(len(tokens), -1)
    for low in False, True:
        with torch.inference_mode(), report.autocast(low):
            many = [text.expand(rows.shape[1], -1) for text in tokens]
            masks = [torch.ones_like(text, dtype=torch.bool) for text in many]
            plain = torch.stack(
                [
                    network({**images, "tokens": text, "token_mask": mask})[:, 0].float()
                    for text, mask in zip(many, masks, strict=True)
                ]
            )
            scorers = [PairScorer(network, budget) for budget in (1, 2**16, None)]
            found = [each.score(each.images(images), rows, each.captions(tokens)) for each in scorers]
        apart = max(largest_difference(each, plain) for each in found)
        report.check(f"pair scorer, {'bf16' if low else 'fp32'}", apart < (5e-2 if low else 1e-4), f"{apart:.1e}")


def attention(report: Report) -> None:
    """Compare the fused attention's gradients with float64, by the kernel torch chooses and by each other one."""
    kinds = [None, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]
    for queries, keys, relational in report.pick(ATTENTIONS, ATTENTIONS[2:3]):
        expected = _attend(report.pick(64, 2), queries, keys, relational, torch.float64, torch.device("cpu"))
        for kind in report.pick(kinds, [None]):
            label = f"attention {queries} x {keys}{' with relation' if relational else ''}"
            work = (report.pick(64, 2), queries, keys, relational, torch.bfloat16, report.device)
            try:
                with contextlib.nullcontext() if kind is None else sdpa_kernel(kind):
                    found = _attend(*work)
                    seconds = report.seconds_of(lambda work=work: _attend(*work), 5)
            except RuntimeError as exception:
                if kind is None:
                    raise
                report.say(f"    {label}: {kind.name} refuses ({str(exception)[:80]})")
                continue
            apart = max(map(relative_difference, found, expected))
            if kind is None:
                report.check(f"{label}, torch's choice", apart < 3e-2, f"{apart:.1e}, {1e3 * seconds:.2f} ms")
            else:
                report.say(f"    {label}: {kind.name} {apart:.1e}, {1e3 * seconds:.2f} ms")


def _attend(
    samples: int, queries: int, keys: int, relational: bool, kind: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Return output and gradients of an attention under a mask, with a relation bias that learns where asked."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(samples, 8, length, 64) for length in (queries, keys, keys)]
    inputs = [torch.randn(shape, generator=generator).to(device, kind) for shape in shapes]
    bias = torch.zeros(samples, 1, 1, keys)
    bias[..., keys * 2 // 3 :] = -1e9
    learned = inputs
    if relational:
        relation = torch.rand(samples, 8, queries, keys, generator=generator).log().to(device, kind)
        learned = [*inputs, relation]
    for each in learned:
        each.requires_grad_()
    bias = bias.to(device, kind) + (learned[3] if relational else 0)
    output = F.scaled_dot_product_attention(*inputs, bias)
    return [output, *torch.autograd.grad(output.float().square().sum(), learned)]
