"""The report on one or more runs: figures with intervals, tests of differences, examples, curves, provenance."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mmnas.config import Config
from mmnas.data.features import add_file, image_id_of
from mmnas.detector.images import find_images
from mmnas.engine.checkpoint import Checkpoint, checkpoints_in, load_checkpoint, settings_of
from mmnas.errors import ConfigError
from mmnas.files import PathLike, replacing
from mmnas.genotype import Genotype
from mmnas.models.cost import genotype_costs
from mmnas.models.operations import Sizes
from mmnas.paths import RunPaths
from mmnas.predict.page import COLORS, Html, curves, fill, vector
from mmnas.predict.report_split import compare, examples, figures
from mmnas.predict.samples import drift, read_samples, score_samples
from mmnas.predict.stored import StoredResult, read_result
from mmnas.run.results import MARK
from mmnas.search.genotype_picture import draw_architecture

SPLITS = ("val", "test", "testA", "testB")
MOST_CURVES = 50


@dataclass(frozen=True)
class Run:
    """A version's results by split, and its newest checkpoint, if there is one of this project."""

    version: str
    results: dict[str, StoredResult]
    checkpoint: Checkpoint | None
    config: Config
    genotype: Genotype | None


def write_report(
    versions: Sequence[str], out: PathLike, logs: PathLike, images: str | None = None, data_path: str | None = None
) -> None:
    """Write the report on `versions`, of `logs` or as `other/logs/VERSION`, to `out`.

    `images` is a folder of the data set's images.
    """
    if len(set(versions)) != len(versions) or len(versions) > len(COLORS):
        raise ConfigError(f"name different versions, at most {len(COLORS)}, not {', '.join(versions)}")
    runs = [_find(version, logs, data_path) for version in versions]
    if others := [run for run in runs if run.config.task != runs[0].config.task]:
        tasks = f"{others[0].version} is of {others[0].config.task}, {versions[0]} of {runs[0].config.task}"
        raise ConfigError(f"{tasks}: report on versions of one task")
    if images and not Path(images).is_dir():
        raise ConfigError(f"--images={images} is not a folder: name that of the data set's images")
    files = find_images([images]) if images else []
    names: dict[int, str] = {}
    for path in files:
        if (number := image_id_of(path.name)) is not None:
            add_file(names, number, str(path))
    paths = {number: Path(name) for number, name in names.items()}
    body = [_missing(run) for run in runs if "val" not in run.results]
    body += [part for split in SPLITS if (part := _split(split, runs, paths))]
    body += [*_training(runs), *_architectures(runs), *_provenance(runs)]
    legend = [fill("version", color=number, version=run.version) for number, run in enumerate(runs)]
    title = f"{runs[0].config.task.upper()}: {', '.join(versions)}"
    with replacing(out) as temporary:
        temporary.write_text(fill("page", title=title, legend=legend, body=body), encoding="utf-8")


def _find(version: str, logs: PathLike, data_path: str | None) -> Run:
    files = RunPaths(Path(version).parent if "/" in version else logs, Path(version).name)
    paths = [files.result("val"), files.result("test"), *(files.result("test", split) for split in SPLITS[1:])]
    found = [read_result(path, data_path) for path in paths if path.is_file()]
    content = [(path, load_checkpoint(path)) for path in checkpoints_in(files.checkpoints)[-1:]]
    own = [(path, each) for path, each in content if isinstance(each, Checkpoint)]
    settings = [settings_of(path, each) for path, each in own]
    if not found and not own:
        place = f"{files.version} in {files.logs}"
        raise ConfigError(f"no result and no checkpoint of {place}: name a --VERSION, or its --logs")
    config, genotype = (found[0].config, found[0].genotype) if found else settings[0]
    return Run(version, {each.split: each for each in found}, own[0][1] if own else None, config, genotype)


def _missing(run: Run) -> Html:
    command = f"mmnas train {run.config.task} --RUN=val --VERSION={Path(run.version).name}"
    return fill("note", text=f"{run.version} has no result on val; make it by: {command}")


def _split(split: str, runs: Sequence[Run], paths: dict[int, Path]) -> Html | None:
    """Return the section of one split, or None where no version has it, or it has no references."""
    results = {number: run.results[split] for number, run in enumerate(runs) if split in run.results}
    if not results or (runs[0].config.task, split) == ("vqa", "test"):
        return None
    samples = read_samples(next(iter(results.values())).config, split)
    scores = {number: score_samples(result, samples) for number, result in results.items()}
    names, images = [run.version for run in runs], len(set(samples.image_ids))
    body = [fill("paragraph", text=f"{len(samples.image_ids)} samples of {images} images")]
    for number, result in results.items():
        if told := drift(result, scores[number]):
            body.append(fill("note", text=f"{names[number]} {told}"))
        if result.provenance.get(MARK):
            body.append(fill("note", text=f"{names[number]} was, or may have been, trained on {split}"))
    body += [*compare(samples, scores, names), figures(samples, scores, names)]
    return fill("part", title=f"Split {split}", body=body + examples(samples, scores, names, paths))


def _training(runs: Sequence[Run]) -> list[Html]:
    """Return the curves of loss and of the figures on val."""
    lines: dict[str, dict[int, Any]] = {}
    for n, run in enumerate(runs):
        for row in run.checkpoint.history if run.checkpoint else ():
            on_val = {f"{name} on val": value for name, value in (row["metrics"] or {}).items()}
            for name, value in {"loss": row["loss"], **on_val}.items():
                lines.setdefault(name, {}).setdefault(n, []).append((row["epoch"], value))
    plots = [curves(title, each) for title, each in islice(lines.items(), MOST_CURVES)]
    return [fill("part", title="Training", body=fill("plots", plots=plots))] if plots else []


def _architectures(runs: Sequence[Run]) -> list[Html]:
    """Return a picture of each genotype."""
    found: dict[Genotype, list[Run]] = {}
    for run in runs:
        if run.genotype is not None:
            found.setdefault(run.genotype, []).append(run)
    drawn = []
    for genotype, owners in found.items():
        model, data = owners[0].config.model, owners[0].config.data
        sizes = Sizes(model.hidden_size, model.relation_size, model.head_scale)
        costs = genotype_costs(genotype, sizes, regions=data.max_regions, tokens=data.max_tokens)
        figure = draw_architecture(genotype, costs, title="", subtitle="")
        title = ", ".join(run.version for run in owners)
        drawn.append(fill("architecture", title=title, source=vector(figure)))
    return [fill("part", title="Architecture", body=drawn)] if drawn else []


def _provenance(runs: Sequence[Run]) -> list[Html]:
    """Return where each result comes from: the main facts, and all that is recorded."""
    parts = []
    for n, run in enumerate(runs):
        for split, result in run.results.items():
            facts = [("result", result.path), *result.provenance.items()]
            plain = {key: value for key, value in facts if not isinstance(value, dict | list | None)}
            rows = [fill("fact", name=key.replace("_", " "), value=value) for key, value in plain.items()]
            text = json.dumps(result.provenance, indent=1, ensure_ascii=False).split("\n")
            lines = [piece for line in text for piece in (line, Html("\n"))]
            parts.append(fill("provenance", color=n, version=run.version, split=split, rows=rows, text=lines))
    return [fill("part", title="Provenance", body=parts)] if parts else []
