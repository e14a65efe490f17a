"""Stand-ins for what tests cannot have: trained weights, real features, a data set on disk.

Weights and inputs are pure functions of names, so that the figures in `tests/parity` can be reproduced
without storing a single weight.
"""

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmnas.batch import Batch
from mmnas.config import Config, SearchConfig, load_config
from mmnas.engine.weights import network_with
from mmnas.genotype import Genotype, read_genotype, search_space
from mmnas.models.published import from_published
from mmnas.search.supernet import Supernet
from mmnas.tasks import task_named
from mmnas.tasks.base import Task

ROOT = Path(__file__).resolve().parents[1]
SHIPPED_GENOTYPES = ("train_vqa", "train_vgd", "train_itm", "mcan")

# A model size as the fixtures call it, and the configuration key that it sets.
_DIMS = {
    "hidden_size": "hidden_size",
    "image_feature_size": "feature_size",
    "word_embed_size": "word_size",
    "relation_size": "relation_size",
    "attflat_mlp_size": "pooling_size",
    "attflat_glimpses": "glimpses",
    "attflat_out_size": "pooled_size",
}

# The supernet's fixture leaves this one out: it is that of the tasks' fixtures.
_SUPERNET_DIMS = {"image_feature_size": 48}


def stand_in_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the weights (float32) that the parameter published as `name` has in all fixtures.

    Normal numbers seeded by the name: gains scatter around one, matrices keep the variance of what
    passes through them, vectors are small.
    """
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("a_2"):
        weight = 1 + 0.1 * noise
    elif len(shape) >= 2:
        weight = noise / math.sqrt(math.prod(shape[1:]))
    else:
        weight = 0.05 * noise
    return weight.astype(np.float32)


def stand_in_uniform(tag: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Return uniform numbers (float64) in [low, high), seeded by the tag."""
    return np.random.RandomState(zlib.crc32(tag.encode())).uniform(low, high, shape)


def fixture(name: str) -> dict[str, Any]:
    """Return the figures of `tests/parity/<name>.json`."""
    return json.loads((ROOT / "tests" / "parity" / f"{name}.json").read_text(encoding="utf-8"))


def shipped_genotype(name: str) -> Genotype:
    """Return a genotype that comes with the project, such as `train_vqa`."""
    return read_genotype(ROOT / "logs" / "ckpts" / "arch" / f"{name}.json")


def published_state(figures: dict[str, Any]) -> dict[str, Tensor]:
    """Return the fixture's stand-in weights under their published names."""
    shapes = figures["state_dict_shapes"]
    return {name: torch.from_numpy(stand_in_weight(name, tuple(shape))) for name, shape in shapes.items()}


def published_checkpoint(path: Path, figures: dict[str, Any]) -> Path:
    """Write the fixture's stand-in weights to `path` in the form of the released models."""
    state = {f"module.{name}": weight for name, weight in published_state(figures).items()}
    torch.save({"state_dict": state, "net_optim": {"state": {}, "param_groups": []}, "epoch": 13}, path)
    return path


def fixture_config(figures: dict[str, Any], logs: Path | None = None, **overrides: Any) -> Config:
    """Return the configuration that the figures were measured with; all data is trained on, dropout is 0."""
    training = figures["training"]
    epochs = len(training["losses"]) // training["epoch_steps"]
    settings = {f"model.{ours}": figures["dims"][theirs] for theirs, ours in _DIMS.items()}
    settings |= {f"training.{key}": training[key] for key in ("base_lr", "decay_epochs", "decay_rate", "clip_norm")}
    settings |= {"training.betas": training["betas"], "training.eps": training["eps"], "training.epochs": epochs}
    settings |= {"model.dropout": 0.0, "training.batch_size": figures["dims"]["batch"], "training.workers": 0}
    settings |= {"paths.logs": str(logs)} if logs else {}
    split = task_named(figures["task"]).splits[0]
    return load_config(figures["task"], "tiny", split=split, version="parity", overrides={**settings, **overrides})


def fixture_task(figures: dict[str, Any], config: Config | None = None) -> Task:
    """Return the fixture's task with word lists of the right lengths."""
    task = task_named(figures["task"])(config or fixture_config(figures))
    task.vocabularies = {"tokens": [f"word{number}" for number in range(figures["dims"]["vocab_size"])]}
    if figures["dims"]["answers"]:
        task.vocabularies["answers"] = [f"answer{number}" for number in range(figures["dims"]["answers"])]
    return task


def fixture_network(figures: dict[str, Any], genotype: Genotype | None = None, **overrides: Any) -> nn.Module:
    """Return the fixture's network, or that of another genotype in the same sizes, freshly initialised."""
    task = fixture_task(figures, fixture_config(figures, **overrides))
    torch.manual_seed(0)
    return task.build_model(genotype or Genotype.from_dict(figures["genotype"]), pretrained_words=False)


def load_weights(
    network: nn.Module, source: Any, path: Path, explain: Callable[..., str | None] = lambda *_: None
) -> None:
    """Copy a checkpoint's weights into a network that is there."""
    network_with(lambda: network, source, path, explain)


def fixture_search_space() -> Genotype:
    """Return the search space that `tests/parity/supernet.json` was measured with: the paper's."""
    space = SearchConfig()
    return search_space(
        space.encoder_blocks, space.decoder_blocks, space.encoder_candidates, space.decoder_candidates
    )


def fixture_supernet(task: str) -> tuple[Supernet, Genotype]:
    """Return the supernet of a task with the stand-in weights of `tests/parity/supernet.json`, and its space."""
    figures, space = fixture("supernet")[task], fixture_search_space()
    network = fixture_network(fixture(task), space)
    network.load_state_dict(from_published(published_state(figures)))
    return Supernet(network, space), space


def fixture_batch(figures: dict[str, Any], **targets: Any) -> Batch:
    """Return the fixture's inputs as a batch; `targets` become float32 tensors of that name."""
    dims = {**_SUPERNET_DIMS, **figures.get("dims", figures)}
    regions, lengths = torch.tensor(figures["regions"]), torch.tensor(figures["lengths"])
    shape = (dims["batch"], dims["max_regions"], dims["image_feature_size"])
    region_mask = torch.arange(dims["max_regions"])[None] < regions[:, None]
    features = torch.from_numpy(stand_in_uniform(f"{figures['tag']}/feat", shape).astype(np.float32))
    return {
        "features": features * region_mask[..., None],
        "boxes": torch.tensor(figures["boxes"]),
        "image_sizes": torch.tensor([[480.0, 640.0]]).repeat(dims["batch"], 1),
        "region_mask": region_mask,
        "tokens": torch.tensor(figures["token_ids"]),
        "token_mask": torch.arange(dims["max_tokens"])[None] < lengths[:, None],
        "index": torch.arange(dims["batch"]),
        **{name: torch.tensor(values, dtype=torch.float32) for name, values in targets.items()},
    }


def one_batch_task(name: str) -> type[Task]:
    """Return the class of a task that trains on one batch alone, never scores, and notes the loss of every step.

    The trainer's loader is to be replaced by that batch, as often as an epoch has steps.
    """

    class OneBatchTask(task_named(name)):
        scores_val = False

        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.losses: list[float] = []

        def training_set(self) -> range:
            training = fixture(name)["training"]
            return range(training["epoch_steps"] * self.config.training.batch_size)

        def before_epoch(self, model: nn.Module, epoch: int, tools: Any, datasets: Any) -> None:
            """Negatives, where a task has them, are part of the batch."""

        def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
            losses = super().loss(model, batch)
            self.losses.append(losses["total"].item())
            return losses

    return OneBatchTask


class Batches(list):
    """Takes the place of a loader."""

    seconds_waited = 0.0


class NoScalars:
    """Takes the place of TensorBoard."""

    def add(self, values: dict[str, float], step: int) -> None:
        """Forget the values."""
