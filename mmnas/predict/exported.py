"""`mmnas export`: a trained model as a folder for others, with a card that says what it is."""

import contextlib
import html
import importlib.resources
import os
import shutil
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from mmnas.config import PathsConfig
from mmnas.engine import checkpoint as checkpoints
from mmnas.engine.checkpoint import Checkpoint
from mmnas.engine.exported import WEIGHTS, write_export
from mmnas.errors import ConfigError, DataError, safe
from mmnas.files import PathLike, read_json, remove_temporaries
from mmnas.genotype import Genotype
from mmnas.paths import RunPaths
from mmnas.predict.networks import network_of
from mmnas.run.plan import UNKNOWN, is_version
from mmnas.run.results import MARK, was_trained_on
from mmnas.tasks import task_named
from mmnas.tasks.base import Task

# The names of the tasks, or of the nearest ones, on the Hugging Face Hub.
_PIPELINES = {
    "vqa": "visual-question-answering", "vgd": "zero-shot-object-detection", "itm": "zero-shot-image-classification"
}  # fmt: skip
_NOTES = {True: "trained on", UNKNOWN: "may have been trained on"}


class _Scored(Struct):
    """What the card needs of a result's provenance."""

    checkpoint_sha256: str
    scored_on: str
    summary: dict[str, float]
    mark: bool | str = field(name=MARK)
    """Whether the split was trained on."""


def find_checkpoint(name: str, logs: PathLike) -> Path:
    """Return `name` if it is a path; else the best checkpoint of that run, or the newest where none was scored."""
    if Path(name).is_file() or Path(name, WEIGHTS).exists():
        return Path(name)
    found = checkpoints.checkpoints_in(RunPaths(logs, name).checkpoints) if is_version(name) else []
    if not found:
        raise ConfigError(f"{name} is neither a checkpoint nor a --VERSION with checkpoints under {logs}")
    newest = checkpoints.load_checkpoint(found[-1])
    if not isinstance(newest, Checkpoint):
        return found[-1]
    config, _ = checkpoints.settings_of(found[-1], newest)
    epoch = checkpoints.best_epoch(newest.history, task_named(config.task).headline)
    best = found[-1].with_name(checkpoints.checkpoint_name(epoch or 0, 0))
    return best if best in found else found[-1]


def export(path: Path, checkpoint: Checkpoint, out: Path) -> None:
    """Write the folder `out`, as a whole or not at all.

    `path` is where the checkpoint was read. Raises `ConfigError` where `out` exists.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists and is left as it is: name another folder, or remove it first")
    _, task, genotype, trained = network_of(path, checkpoint)  # which checks all of it
    config = replace(trained, paths=PathsConfig())  # whoever loads it has other ones
    remove_temporaries(out.parent, out.name)  # what killed processes left
    folder = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    folder.mkdir(parents=True)
    try:
        content = asdict(replace(checkpoint, config=config.to_dict()))
        write_export(folder, {"format": checkpoints.FORMAT, **content})
        (folder / "README.md").write_text(
            _card(task, genotype, checkpoint, _scores(path, checkpoint)), encoding="utf-8"
        )
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scores(path: Path, checkpoint: Checkpoint) -> dict[str, _Scored]:
    """Return what is known of a checkpoint's scores by split: of training, and of the results beside its run."""
    last = checkpoint.history[-1]["metrics"] if checkpoint.history else None
    scores = {"val": _Scored("", "val", last, was_trained_on("val", checkpoint.seen_splits))} if last else {}
    digest = checkpoints.open_checkpoint(path).sha256
    for file in sorted(path.absolute().parent.parent.glob("result_*/result_run_*.meta.json")):
        with contextlib.suppress(DataError):  # a result of an earlier release
            scored = read_json(file, kind=_Scored)
            if scored.checkpoint_sha256 == digest and scored.summary:
                scores[scored.scored_on] = scored
    return scores


def _card(task: Task, genotype: Genotype, checkpoint: Checkpoint, scores: dict[str, _Scored]) -> str:
    """Return the model card: Markdown, after the head that the Hugging Face Hub reads."""
    config = task.config
    rows = (
        (split, name, f"{value:.2f}", _NOTES.get(scored.mark, ""))
        for split, scored in scores.items()
        for name, value in scored.summary.items()
    )
    lines = ["".join(f"| {_cell(cell)} " for cell in row) + "|" for row in rows]
    template = importlib.resources.files("mmnas.predict").joinpath("card.md").read_text(encoding="utf-8")
    return template.format(
        config=config,
        task=task,
        pipeline=_PIPELINES.get(config.task, "other"),
        blocks=(len(genotype.encoder), len(genotype.decoder)),
        millions=sum(weight.numel() for weight in checkpoint.model.values()) / 1e6,
        words=", ".join(f"{len(words)} {name}" for name, words in task.vocabularies.items()),
        data=" ".join(filter(None, (config.data.dataset or config.task, config.data.feature_kind))),
        splits=_cell(", ".join(checkpoint.seen_splits or [config.split, UNKNOWN])),
        epochs=checkpoint.epoch or UNKNOWN,
        versions=_cell(", ".join(map(" ".join, checkpoint.versions.items())) or UNKNOWN),
        scores="\n".join(lines) or "| none known | | | |",
    )


def _cell(text: Any) -> str:
    """Return text, perhaps of a stranger's checkpoint, for a cell of a table."""
    return html.escape(safe(text)).replace("|", "&#124;").replace("`", "&#96;")
