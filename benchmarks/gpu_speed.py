"""How fast a GPU trains and scores: the sections of `benchmarks.gpu` that time."""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import loader
from benchmarks.gpu_report import Report
from benchmarks.networks import matching_batch, plain_network, vgd_sample
from benchmarks.timing import matrix_work
from benchmarks.training import sorted_batches
from mmnas.batch import Batch, collate
from mmnas.data.samplers import WINDOW, TrainingSampler
from mmnas.data.store import FeatureStore, region_counts
from mmnas.data.store_writer import pack
from mmnas.engine.distributed import Group
from mmnas.engine.loading import BatchLoader, dismiss_workers
from mmnas.engine.optimizer import optimizer_of
from mmnas.engine.placement import load_table
from mmnas.engine.steps import add_gradients, autocast, move_weights
from mmnas.models.gpu import use_gpu_kernels
from mmnas.models.network import MMNasNet
from mmnas.models.pair_scorer import PairScorer
from mmnas.models.precision import use_precision
from mmnas.tasks.base import Task

CLIP, RATE = 1.0, 1e-5


def machine(report: Report) -> None:
    """Name the device and measure what bounds a step: products, the copy to it, a launch."""
    name = torch.cuda.get_device_name() if report.on_gpu else "CPU"
    report.say(f"    {name}, {os.cpu_count()} cores, torch {torch.__version__}, CUDA {torch.version.cuda}")
    size = report.pick(8192, 256)
    for precision, kind in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        use_precision(precision)
        x = torch.randn(size, size, device=report.device, dtype=kind)
        rate = 2 * size**3 / report.seconds_of(lambda x=x: x @ x, 5) / 1e12
        report.row(f"product {size} x {size}, {precision}", rate, "TFLOP/s")
    small = torch.zeros(1, device=report.device)
    report.row("launches", 1000 / report.seconds_of(lambda: [small.add_(1) for _ in range(1000)], 3), "a second")
    if report.on_gpu:
        host = torch.empty(2**26, dtype=torch.uint8).pin_memory()
        there = torch.empty_like(host, device=report.device)
        seconds = report.seconds_of(lambda: there.copy_(host, non_blocking=True), 5)
        report.row("copies from page-locked memory", host.nbytes / seconds / 1e9, "GB/s")


def batches_of(report: Report, name: str, size: int) -> list[Batch]:
    """Return batches on the device: a few that stand for an epoch of VQA, or one."""
    rng = np.random.default_rng(0)
    if name == "itm":
        return [report.moved(matching_batch(size, rng))]
    if name == "vgd":
        found = [[vgd_sample(rng) for _ in range(size)]]
    else:
        found = sorted_batches(WINDOW * size, size, report.pick(5 if size < 256 else 3, 1), by_tokens=False, seed=1)
    return [report.moved({**collate(each), "index": torch.arange(size)}) for each in found]


def network_for(report: Report, name: str, precision: str, **settings: float) -> tuple[Task, MMNasNet]:
    """Return a task and its network, of size small on a GPU; `settings` are those of the model."""
    overrides = {"training.precision": precision} | {f"model.{key}": value for key, value in settings.items()}
    task, network = plain_network(name, report.pick("small", "tiny"), **overrides)
    return task, network.to(report.device)


class Steps:
    """Takes optimizer steps as training does."""

    def __init__(self, report: Report, name: str, precision: str, joined: bool = False, **settings: float) -> None:
        self.task, network = network_for(report, name, precision, **settings)
        self.network, self.device = network.train(), report.device
        if joined:
            use_gpu_kernels(self.network)
        self.optimizer = optimizer_of(self.network, self.task.config)
        use_precision(precision)

    def __call__(self, batch: Batch) -> Tensor:
        """Take a step; return the loss."""
        loss = add_gradients(self.task, self.network, batch, self.device)
        move_weights(self.network, self.optimizer, CLIP, RATE)
        return loss

    def rate(self, report: Report, batches: list[Batch]) -> float:
        """Return samples per second."""
        seconds = report.seconds_of(lambda: [self(batch) for batch in batches], report.pick(3, 1))
        return sum(len(batch["index"]) for batch in batches) / seconds


def training(report: Report) -> None:
    """Time steps by task, batch size and precision; look into one of each for kernels, memory and waiting."""
    for name in ("vqa", "vgd", "itm"):
        for size in report.pick((64, 256, 512), (3,)):
            batches = batches_of(report, name, size)
            precisions = [("bf16", False), ("bf16", True)]
            if size == 64:
                precisions = [("fp32", False), ("tf32", False), *precisions]
            for precision, joined in report.pick(precisions, [("bf16", True)]):
                _training_row(report, name, batches, precision, joined)
            del batches


def _training_row(report: Report, name: str, batches: list[Batch], precision: str, joined: bool) -> None:
    """Time one kind of step, and say what its work is and what the GPU does meanwhile."""
    take, size = Steps(report, name, precision, joined), len(batches[0]["index"])
    with _memory(report) as peak:
        rate = take.rate(report, batches)
    kernels, busy = _look_into(report, lambda: take(batches[0]), size / rate)
    with torch.no_grad():
        work = matrix_work(take.task.loss, take.network, batches[0]) / size
    title = f"{name} training, batch {size}, {precision}{', joined kernels' if joined else ''}"
    report.row(title, rate, "samples/s", f"{3 * work * rate / 1e12:.1f}", *peak, kernels, busy)


@contextlib.contextmanager
def _memory(report: Report) -> Iterator[list[str]]:
    """Note the peak of the GPU's memory inside."""
    found: list[str] = []
    if report.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    yield found
    found.append(f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if report.on_gpu else "")


def _look_into(report: Report, step: Callable[[], Tensor], seconds: float) -> tuple[str, str]:
    """Return the kernels of a step and how much of `seconds` a GPU is busy; check that it waits for nothing."""
    if not report.on_gpu:
        return "", ""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as exception:
        report.check("a step that waits for nothing", False, str(exception)[:200])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step()
        report.wait()
    events = [event for event in found.events() if event.device_type == DeviceType.CUDA]
    longest: dict[str, float] = {}
    for event in events:
        longest[event.name[:70]] = longest.get(event.name[:70], 0) + event.device_time / 1e3
    for name, spent in sorted(longest.items(), key=lambda item: -item[1])[:5]:
        report.say(f"      {spent:6.2f} ms {name}")
    return f"{len(events)}", f"{100 * sum(longest.values()) / 1e3 / seconds:.0f} %"


def scoring(report: Report) -> None:
    """Time the scoring of questions, and of pairs under several memory budgets."""
    task, network = network_for(report, "vqa", "bf16")
    network.eval()
    for size in report.pick((128, 512), (3,)):
        batches = batches_of(report, "vqa", size)
        with torch.inference_mode(), autocast(task.config, report.device):
            seconds = report.seconds_of(partial(_predict, task, network, batches), report.pick(3, 1))
        report.row(f"vqa scoring, batch {size}, bf16", len(batches) * size / seconds, "samples/s")
    task, network = network_for(report, "itm", "bf16")
    network.eval()
    images, captions, length = report.pick((512, 256, 12), (4, 2, 5))
    batch = report.moved(matching_batch(images, np.random.default_rng(0)))
    tokens = torch.randint(3, 1000, (captions, length), device=report.device)
    rows = torch.arange(images, device=report.device).expand(captions, -1)
    for budget in report.pick((2**27, 2**30, 2**32), (2**27,)):
        scorer = PairScorer(network, budget)
        with torch.inference_mode(), autocast(task.config, report.device):
            score = partial(scorer.score, scorer.images(batch), rows, scorer.captions(tokens))
            seconds = report.seconds_of(score, 2)
        report.row(f"itm scoring, {budget >> 20} MB at a time, bf16", rows.numel() / seconds, "pairs/s")


def _predict(task: Task, network: MMNasNet, batches: list[Batch]) -> None:
    for batch in batches:
        task.predict(network, batch)


def feeding(report: Report) -> None:
    """Time the loader alone, with features on the disk, in memory and on the device."""
    loader.write_images(report.folder / "npz", report.pick(640, 40), np.savez)
    with report.silence():
        pack([report.folder / "npz"], report.folder / "packed", "float16")
    for place in ("stream", "memory", "device"):
        for workers in report.pick((1, 4, 8), (1,)):
            _feeding_row(report, place, workers)


def _feeding_row(report: Report, place: str, workers: int) -> None:
    store = FeatureStore(report.folder / "packed")
    if place != "stream":
        load_table(store, Group(device=report.device), in_place=place == "memory")
    data = loader.Images(store, len(store))
    counts = region_counts(store, range(1, len(store) + 1), 100)
    sampler = TrainingSampler(len(data), 64, seed=0, lengths=np.tile(counts, loader.QUESTIONS))
    feed, epochs = BatchLoader(data, sampler, workers, report.device), iter(range(10))

    def epoch() -> None:
        sampler.start(next(epochs))
        for _ in feed:
            pass

    try:
        seconds = report.seconds_of(epoch, report.pick(4, 1))
    finally:
        dismiss_workers()
    report.row(f"loader, float16, {place}, {workers} workers", len(data) / seconds, "samples/s")


def graph(report: Report) -> None:
    """Time a whole step as one CUDA graph, which training does not use: what it would gain."""
    if not report.on_gpu:
        report.say("    needs a GPU")
        return
    for size in (64, 256):
        batch, take = batches_of(report, "vqa", size)[1], Steps(report, "vqa", "bf16", joined=True)
        options = {"lr": RATE, "betas": (0.9, 0.98), "eps": 1e-9, "fused": True, "capturable": True}
        take.optimizer = torch.optim.Adam(take.network.parameters(), **options)
        replay = _captured(partial(take, batch))
        first = replay()
        seconds = report.seconds_of(replay, 20)
        report.row(f"vqa step as one CUDA graph, batch {size}, bf16", size / seconds, "samples/s")
        report.check(f"a replayed graph learns, batch {size}", replay() < first)


def _captured(take: Callable[[], Tensor]) -> Callable[[], float]:
    """Capture a step as a graph; return a function that replays it and returns the loss."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            take()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        loss = take()

    def replay() -> float:
        captured.replay()
        return float(loss)

    return replay


def compiled(report: Report) -> None:
    """Compile a network as --COMPILE does and time its steps; on a CPU the compiled graph runs as it is."""
    take = Steps(report, "vqa", "bf16", dropout=0.0)
    batches = batches_of(report, "vqa", report.pick(64, 3))
    plain = float(add_gradients(take.task, take.network, batches[0], report.device))
    take.network.compile(**report.pick({}, {"backend": "eager"}))
    loss = float(add_gradients(take.task, take.network, batches[0], report.device))
    report.check("a compiled network's loss", abs(loss / plain - 1) < 1e-2, f"{loss:.1f}, plain {plain:.1f}")
    if report.on_gpu:
        report.row("vqa training, batch 64, bf16, --COMPILE", take.rate(report, batches), "samples/s")
