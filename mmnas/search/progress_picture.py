"""The picture of how searches went: loss, entropy and cost over the epochs, and what was scored in the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

from mmnas.search.drawing import GRAY, INK
from mmnas.search.history import SearchEpoch, SearchHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

COLORS = "#1f2933 #dd6b10 #2b6cb0 #2f8f4e #c02f80 #7b4fb0 #c9a000 #0e94a0".split()
CURVES: dict[str, Callable[[SearchEpoch], float]] = {
    "loss of the weight steps": lambda epoch: epoch.loss,
    "entropy, mean of all blocks": lambda epoch: epoch.entropy,
    "multiply-adds found, millions": lambda epoch: epoch.multiply_adds / 1e6 or math.nan,
}
HEADING_STYLE: dict[str, Any] = {"fontsize": 10, "weight": "bold", "color": INK, "loc": "left"}
PANEL = 3.6, 2.6  # inches
MOST_NAMES = 10  # in the legend


def draw_comparison(histories: Mapping[str, SearchHistory]) -> Figure:
    """Draw several searches by name in one picture, one color each."""
    from matplotlib.figure import Figure

    panels = len(CURVES) + any(history.scored for history in histories.values())
    figure = Figure(figsize=(panels * PANEL[0], PANEL[1] + 0.3), layout="constrained")
    first, *_ = draw_progress(figure, histories)
    curves = first.get_lines()[: min(len(histories), MOST_NAMES)]
    legend = figure.legend(
        curves, list(histories)[:MOST_NAMES], loc="outside upper center", ncols=5, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def draw_progress(part: FigureBase, histories: Mapping[str, SearchHistory]) -> list[Axes]:
    """Draw a row of panels into a part of a figure; return them, the loss first."""
    scored = any(history.scored for history in histories.values())
    panels = list(part.subplots(1, len(CURVES) + scored, squeeze=False).flat)
    for axes, (title, value) in zip(panels, CURVES.items(), strict=False):
        for history, color in zip(histories.values(), cycle(COLORS), strict=False):
            epochs, values = [each.epoch for each in history.epochs], list(map(value, history.epochs))
            axes.plot(epochs, values, color=color, lw=1.6, marker="o", ms=3, clip_on=False)
        axes.set_title(title, **HEADING_STYLE)
        finish(axes, histories.values(), ticks=8)
    panels[1].set_ylim(0, 1)
    if any(history.epochs[-1].architecture_steps for history in histories.values()):
        panels[0].set_xlabel("epoch; dotted: the first with architecture steps", fontsize=8, color=GRAY)
    if scored:
        _draw_scored(panels[-1], histories)
    return panels


def _draw_scored(axes: Axes, histories: Mapping[str, SearchHistory]) -> None:
    """Draw what was scored for the final choice; a diamond is what was chosen."""
    for history, color in zip(histories.values(), cycle(COLORS), strict=False):
        costs, losses = (
            [each.multiply_adds / 1e6 for each in history.scored],
            [each.loss for each in history.scored],
        )
        axes.scatter(costs, losses, color=color, s=12, alpha=0.6)
        axes.plot(costs[:1], losses[:1], "D", color=color, ms=7)
    axes.set_title("loss of scored genotypes", **HEADING_STYLE)
    axes.set_xlabel("multiply-adds, millions; diamond: chosen", fontsize=8, color=GRAY)
    quiet(axes)


def finish(axes: Axes, histories: Iterable[SearchHistory], ticks: int) -> None:
    """Set what panels over epochs share, with a dotted line where architecture steps begin."""
    axes.margins(x=0)
    axes.locator_params(axis="x", nbins=ticks, integer=True, min_n_ticks=1)
    quiet(axes)
    for history in histories:
        for epoch in [entry.epoch for entry in history.epochs if entry.architecture_steps][:1]:
            axes.axvline(epoch, color=GRAY, lw=0.9, ls=":", zorder=0)


def quiet(axes: Axes) -> None:
    """Take away what draws the eye from the data."""
    axes.tick_params(labelsize=7.5, colors=GRAY, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
