"""What a report says of one split: differences in words, figures with intervals, confusions and examples."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmnas.metrics.resampling import LEVEL, bootstrap, interval, p_value
from mmnas.predict.page import Html, fill, picture
from mmnas.predict.samples import Samples, Scores

EXAMPLES, CONFUSIONS = 6, 10
FEWEST = 10
"""Images of which an interval is given."""
SIGNIFICANT = 0.05
LONG = 30
"""Letters of a text, beside which no other fits on a phone."""


def compare(samples: Samples, scores: dict[int, Scores], names: Sequence[str]) -> list[Html]:
    """Return in words whether each version differs from the first."""
    (first, base), *others = scores.items()
    means = bootstrap([each.headline[1] for each in scores.values()], samples.image_ids)
    words = []
    for row, (n, each) in enumerate(others, start=1):
        difference = each.headline[1] - base.headline[1]
        p = min(1, len(others) * p_value(difference, samples.image_ids))  # several tests find more by chance
        limits = interval(means[:, row] - means[:, 0]) if len(set(samples.image_ids)) >= FEWEST else None
        text = describe(names[n], names[first], each.headline[0], difference, limits, p)
        words.append(fill("paragraph", text=text))
    return words


def figures(samples: Samples, scores: dict[int, Scores], names: Sequence[str]) -> Html:
    """Return the table of figures with intervals."""
    groups, images = next(iter(scores.values())).figures, np.asarray(samples.image_ids)
    keys = [(section, name) for section, group in groups.items() for name in group]
    columns = [each.figures[section][name] for section, name in keys for each in scores.values()]
    means = bootstrap(columns, samples.image_ids).T.reshape(len(keys), len(scores), -1)
    largest, rows, done = 600 if keys[0][1] == "rsum" else 100, [], ""
    for (section, name), resampled in zip(keys, means, strict=True):
        if section != done:
            rows.append(fill("group", width=len(scores) + 3, name=section))
        values = {n: each.figures[section][name] for n, each in scores.items()}
        rows.append(_figure_row(name, values, resampled, images, 100 if section else largest))
        done = section
    heads = [fill("version_head", color=n, version=names[n]) for n in scores]
    return fill("figures", versions=heads, rows=rows, level=LEVEL, least=FEWEST, top=largest)


def _figure_row(
    name: str, columns: dict[int, np.ndarray], means: np.ndarray, images: np.ndarray, largest: float
) -> Html:
    """Return a figure of each version with its interval, in numbers and drawn on a scale up to `largest`."""
    counted = ~np.isnan(next(iter(columns.values())))
    few = len(np.unique(images[counted])) < FEWEST
    cells, ranges = [], []
    for (n, column), resampled in zip(columns.items(), means, strict=True):
        value = float(column[counted].mean())
        low, high = (value, value) if few else interval(resampled)
        cells.append(fill("cell", value=f"{value:.2f}", between="" if few else f"[{low:.1f}, {high:.1f}]"))
        start, wide, at = (f"{100 * x / largest:.2f}" for x in (low, high - low, value))
        ranges.append(fill("range", color=n, low=start, wide=wide, at=at))
    return fill("figure_row", name=name, count=int(counted.sum()), cells=cells, ranges=ranges)


def describe(
    name: str, other: str, headline: str, difference: np.ndarray, limits: tuple[float, float] | None, p: float
) -> str:
    """Return in words how a version differs from another in the headline, given per sample, or that it does not."""
    mean = float(difference.mean())
    if not difference.any():
        return f"{name} and {other} do not differ: both score the same on every sample."
    between = f"{LEVEL} % interval {limits[0]:+.2f} to {limits[1]:+.2f}, " if limits else ""
    evidence = f"({between}p = {p:.2g}, permutation test)"
    if p < SIGNIFICANT:
        return f"{name} is {'better' if mean > 0 else 'worse'} than {other}: {headline} {mean:+.2f} {evidence}."
    return f"{name} and {other} do not differ significantly: {headline} {mean:+.2f} {evidence}; it may be chance."


def examples(
    samples: Samples, scores: dict[int, Scores], names: Sequence[str], paths: dict[int, Path]
) -> list[Html]:
    """Return the main confusions, and cards of samples: most different, worst, confused, and best ones."""
    found = defaultdict(list)  # version and sample of every pair of reference and wrong prediction
    for n, each in scores.items():
        for index in np.flatnonzero(each.wrong).tolist():
            found[samples.references[index], each.predicted[index]].append((n, index))
    confused = sorted(found.items(), key=lambda item: -len(item[1]))[:CONFUSIONS]
    table = np.stack([each.headline[1] for each in scores.values()])  # (versions, samples)
    mixed = np.random.default_rng(0).permutation(table.shape[1])  # among equals, any
    spread, mean = np.ptp(table, axis=0)[mixed], table.mean(axis=0)[mixed]
    worst, best, apart = (mixed[np.argsort(key, kind="stable")].tolist() for key in (mean, -mean, -spread))
    chosen = {"Most different": apart[: np.count_nonzero(spread)], "Worst": worst}
    chosen |= {"Most confused": [where[0][1] for _, where in confused], "Best": best}
    return [_confusions(dict(confused), scores, names)] + [
        fill("gallery", title=title, cards=[_card(index, samples, scores, paths) for index in rows[:EXAMPLES]])
        for title, rows in chosen.items()
        if rows
    ]


def _confusions(
    found: dict[tuple[str, str], list[tuple[int, int]]], scores: dict[int, Scores], names: Sequence[str]
) -> Html:
    rows = []
    for (reference, predicted), where in found.items():
        cells = [fill("count", count=sum(version == n for version, _ in where)) for n in scores]
        rows.append(fill("confusion", reference=reference, predicted=predicted, counts=cells))
    heads = [fill("version_head", color=n, version=names[n]) for n in scores]
    long = any(len(text) > LONG for pair in found for text in pair)
    return fill("confusions", kind="long" if long else "", versions=heads, rows=rows)


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
