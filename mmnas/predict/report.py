"""The report on one or more runs: figures with intervals, tests of differences, examples, curves, provenance."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.config import Config
from mmnas.data.features import image_id_of
from mmnas.detector.images import find_images
from mmnas.engine.checkpoint import Checkpoint, checkpoints_in, load_checkpoint
from mmnas.errors import ConfigError
from mmnas.files import PathLike, replacing
from mmnas.genotype import Genotype
from mmnas.metrics.resampling import LEVEL, bootstrap, interval, p_value
from mmnas.models.cost import genotype_costs
from mmnas.models.operations import Sizes
from mmnas.paths import RunPaths
from mmnas.predict.page import COLORS, Html, curves, fill, picture, vector
from mmnas.predict.samples import Samples, Scores, read_samples, score_samples
from mmnas.predict.stored import StoredResult, read_result
from mmnas.run.results import MARK
from mmnas.search.genotype_picture import draw_architecture

SPLITS = ("val", "test", "testA", "testB")
EXAMPLES, CONFUSIONS = 6, 10
FEWEST = 10
"""Images of which an interval is given."""
SIGNIFICANT = 0.05


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
    """Write the report on `versions` to `out`; `images` is a folder of the data set's images."""
    if len(set(versions)) != len(versions) or len(versions) > len(COLORS):
        raise ConfigError(f"name different versions, at most {len(COLORS)}, not {', '.join(versions)}")
    runs = [_find(version, logs, data_path) for version in versions]
    if others := [run for run in runs if run.config.task != runs[0].config.task]:
        tasks = f"{others[0].version} is of {others[0].config.task}, {versions[0]} of {runs[0].config.task}"
        raise ConfigError(f"{tasks}: report on versions of one task")
    files = find_images([images]) if images else []
    paths = {number: path for path in files if (number := image_id_of(path.name)) is not None}
    body = [_missing(run) for run in runs if "val" not in run.results]
    body += [part for split in SPLITS if (part := _split(split, runs, paths))]
    body += [*_training(runs), *_architectures(runs), *_provenance(runs)]
    legend = [fill("version", color=number, version=run.version) for number, run in enumerate(runs)]
    title = f"{runs[0].config.task.upper()}: {', '.join(versions)}"
    with replacing(out) as temporary:
        temporary.write_text(fill("page", title=title, legend=legend, body=body), encoding="utf-8")


def _find(version: str, logs: PathLike, data_path: str | None) -> Run:
    files = RunPaths(logs, version)
    paths = [files.result("val"), files.result("test"), *(files.result("test", split) for split in SPLITS[1:])]
    found = [read_result(path, data_path) for path in paths if path.is_file()]
    content = [load_checkpoint(path) for path in checkpoints_in(files.checkpoints)[-1:]]
    checkpoint = content[0] if content and isinstance(content[0], Checkpoint) else None
    if not found and checkpoint is None:
        raise ConfigError(f"no result and no checkpoint of {version} in {logs}: name a --VERSION, or its --logs")
    config = found[0].config if found else Config.from_dict(checkpoint.config if checkpoint else {})
    genotype = found[0].provenance.get("genotype") if found else checkpoint and checkpoint.genotype
    shape = Genotype.from_dict(genotype) if genotype else None
    return Run(version, {result.split: result for result in found}, checkpoint, config, shape)


def _missing(run: Run) -> Html:
    command = f"mmnas train {run.config.task} --RUN=val --VERSION={run.version}"
    return fill("note", text=f"{run.version} has no result on val; make it by: {command}")


def _split(split: str, runs: Sequence[Run], paths: dict[int, Path]) -> Html | None:
    """Return the section of one split, or None where no version has it, or it has no references."""
    results = {number: run.results[split] for number, run in enumerate(runs) if split in run.results}
    if not results:
        return None
    samples = read_samples(next(iter(results.values())).config, split)
    if not samples.references:
        return None
    scores = {number: score_samples(result, samples) for number, result in results.items()}
    names = [run.version for run in runs]
    marks = [
        f"{names[n]}: {split} was, or may have been, trained on" for n, r in results.items() if r.provenance[MARK]
    ]
    table, confused = _confusions(samples, scores, names)
    body = [fill("note", text=text) for text in marks]
    body += [*_figures(samples, scores, names), *table, *_galleries(samples, scores, confused, paths)]
    count, images = len(samples.image_ids), len(set(samples.image_ids))
    body.insert(0, fill("paragraph", text=f"{count} samples of {images} images"))
    return fill("part", title=f"Split {split}", body=body)


def _figures(samples: Samples, scores: dict[int, Scores], names: Sequence[str]) -> list[Html]:
    """Return in words whether versions differ, and the table of figures with intervals."""
    keys = [(section, name) for section, group in next(iter(scores.values())).figures.items() for name in group]
    columns = {(n, *key): scores[n].figures[key[0]][key[1]] for key in keys for n in scores}
    means = dict(zip(columns, bootstrap(columns.values(), samples.image_ids).T, strict=True))
    headline, top = keys[0][1], 600 if keys[0][1] == "rsum" else 100
    first, *others = scores
    words = []
    for n in others:
        limits = interval(means[(n, *keys[0])] - means[(first, *keys[0])])
        difference = scores[n].headline[1] - scores[first].headline[1]
        p = min(1, len(others) * p_value(difference, samples.image_ids))
        words.append(fill("paragraph", text=describe(names[n], names[first], headline, difference, limits, p)))
    rows: list[Html] = []
    heads = [fill("version_head", color=n, version=names[n]) for n in scores]
    for section, name in keys:
        if section and name == next(iter(scores[first].figures[section])):
            rows.append(fill("group", width=len(scores) + 3, name=section))
        counted = ~np.isnan(columns[first, section, name])
        few = len(set(np.asarray(samples.image_ids)[counted])) < FEWEST
        cells, ranges, full = [], [], top if not section else 100
        for n in scores:
            value = float(np.nanmean(columns[n, section, name]))
            low, high = (value, value) if few else interval(means[n, section, name])
            cells.append(fill("cell", value=f"{value:.2f}", between="" if few else f"[{low:.1f}, {high:.1f}]"))
            at = {"low": 100 * low / full, "wide": 100 * (high - low) / full, "at": 100 * value / full}
            ranges.append(fill("range", color=n, **{key: f"{number:.2f}" for key, number in at.items()}))
        rows.append(fill("figure_row", name=name, count=int(counted.sum()), cells=cells, ranges=ranges))
    table = {"versions": heads, "rows": rows, "level": LEVEL, "least": FEWEST, "top": top}
    return [*words, fill("figures", what="figure", unit="samples", **table)]


def describe(
    name: str, other: str, headline: str, difference: np.ndarray, limits: tuple[float, float], p: float
) -> str:
    """Return in words how a version differs from another in the headline, given per sample, or that it does not."""
    mean = float(difference.mean())
    if not difference.any():
        return f"{name} and {other} do not differ: both score the same on every sample."
    evidence = f"({LEVEL} % interval {limits[0]:+.2f} to {limits[1]:+.2f}, p = {p:.2g}, permutation test)"
    if p < SIGNIFICANT:
        return f"{name} is {'better' if mean > 0 else 'worse'} than {other}: {headline} {mean:+.2f} {evidence}."
    return f"{name} and {other} do not differ significantly: {headline} {mean:+.2f} {evidence}; it may be chance."


def _confusions(samples: Samples, scores: dict[int, Scores], names: Sequence[str]) -> tuple[list[Html], list[int]]:
    """Return the table of the most frequent pairs of reference and wrong prediction, and a sample of each."""
    found = defaultdict(list)
    for n, each in scores.items():
        for index in np.flatnonzero(each.wrong).tolist():
            found[samples.references[index], each.predicted[index]].append((n, index))
    most = sorted(found.items(), key=lambda item: -len(item[1]))[:CONFUSIONS]
    rows = []
    for (reference, predicted), where in most:
        cells = [fill("count", count=sum(version == n for version, _ in where)) for n in scores]
        rows.append(fill("confusion", reference=reference, predicted=predicted, counts=cells))
    heads = [fill("version_head", color=n, version=names[n]) for n in scores]
    return [fill("confusions", versions=heads, rows=rows)] if rows else [], [where[0][1] for _, where in most]


def _galleries(
    samples: Samples, scores: dict[int, Scores], confused: list[int], paths: dict[int, Path]
) -> list[Html]:
    """Return the samples that differ most, the worst and best ones, and one for each of the main confusions."""
    table = np.stack([each.headline[1] for each in scores.values()])  # (versions, samples)
    mixed = np.random.default_rng(0).permutation(table.shape[1])  # among equals, any
    spread, mean = np.ptp(table, axis=0)[mixed], table.mean(axis=0)[mixed]
    worst, best, apart = (mixed[np.argsort(key, kind="stable")].tolist() for key in (mean, -mean, -spread))
    apart = apart[: np.count_nonzero(spread)]
    chosen = {"Most different": apart, "Worst": worst, "Most confused": confused, "Best": best}
    return [
        fill("gallery", title=title, cards=[_card(index, samples, scores, paths) for index in rows[:EXAMPLES]])
        for title, rows in chosen.items()
        if rows
    ]


def _card(index: int, samples: Samples, scores: dict[int, Scores], paths: dict[int, Path]) -> Html:
    """Return an example: its image, what is right, what each version said and scored."""
    number, text, reference = samples.image_ids[index], samples.texts[index], samples.references[index]
    boxes = [("", n, each.boxes[index]) for n, each in scores.items() if each.boxes is not None]
    if boxes:
        boxes.append(("reference", 0, samples.boxes[index]))
    answers = [
        fill("answer", color=n, text=each.predicted[index], score=f"{each.headline[1][index]:.0f}")
        for n, each in scores.items()
    ]
    right = fill("reference", text="the dashed box" if boxes else reference)
    shown = picture(paths.get(number), number, boxes)
    return fill("card", picture=shown, text=text, reference=right, answers=answers)


def _training(runs: Sequence[Run]) -> list[Html]:
    """Return the curves of loss and of the figures on val."""
    histories = {
        n: run.checkpoint.history for n, run in enumerate(runs) if run.checkpoint and run.checkpoint.history
    }
    if not histories:
        return []
    lines: dict[str, dict[int, Any]] = {
        "loss": {n: [(r["epoch"], r["loss"]) for r in rows] for n, rows in histories.items()}
    }
    for n, rows in histories.items():
        for row in rows:
            for name, value in (row["metrics"] or {}).items():
                lines.setdefault(f"{name} on val", {}).setdefault(n, []).append((row["epoch"], value))
    plots = [curves(title, each) for title, each in lines.items()]
    return [fill("part", title="Training", body=fill("plots", plots=plots))]


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
            plain = [
                (key, value) for key, value in facts if value is not None and not isinstance(value, dict | list)
            ]
            rows = [fill("fact", name=key.replace("_", " "), value=value) for key, value in plain]
            text = json.dumps(result.provenance, indent=1, ensure_ascii=False).split("\n")
            lines = [piece for line in text for piece in (line, Html("\n"))]
            parts.append(fill("provenance", color=n, version=run.version, split=split, rows=rows, text=lines))
    return [fill("part", title="Provenance", body=parts)] if parts else []
