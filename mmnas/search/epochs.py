"""What a search finds in each epoch: rows of its checkpoint's history, lines of the log, signs of trouble."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmnas.config import SearchConfig
from mmnas.errors import CheckpointError
from mmnas.genotype import Genotype
from mmnas.models.cost import Cost
from mmnas.schema import convert
from mmnas.search.history import Scored, SearchEpoch, SearchHistory, collapses, entropy, margin

log = logging.getLogger(__name__)

Row = Mapping[str, Any]


def row_of(
    history: Sequence[Row], genotype: Genotype, cost: Cost, probabilities: Sequence[np.ndarray], steps: int
) -> dict[str, Any]:
    """Return what is noted of the epoch after `history`; `steps` counts architecture steps so far."""
    start: dict[str, Any] = {"genotype": genotype.to_dict(), "unchanged_epochs": 0}
    before = history[-1] if history else start
    changed = _differences(genotype, Genotype.from_dict(before["genotype"]))
    return {
        "metrics": {},
        "architecture_steps": steps,
        "changed": changed,
        "unchanged_epochs": 1 if changed else before["unchanged_epochs"] + 1,
        "genotype": genotype.to_dict(),
        "probabilities": [p.tolist() for p in probabilities],
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
    }


def _differences(one: Genotype, other: Genotype) -> int:
    rows = zip((*one.encoder, *one.decoder), (*other.encoder, *other.decoder), strict=True)
    return sum(row != before for row, before in rows)


def history_of(rows: Sequence[Row], space: Genotype) -> SearchHistory:
    """Return the epochs that a search's checkpoint has noted, in the form of the file that is drawn from."""
    cut = len(space.encoder)
    epochs = [{name: row[name] for name in SearchEpoch.__struct_fields__ if name in row} for row in rows]
    for epoch in epochs:
        epoch["probabilities"] = {"enc": epoch["probabilities"][:cut], "dec": epoch["probabilities"][cut:]}
    candidates = {"enc": space.encoder[0], "dec": space.decoder[0]}
    return convert({"candidates": candidates, "epochs": epochs}, SearchHistory, "history", CheckpointError)


def standing(history: Sequence[Row]) -> int:
    """Return for how many epochs with architecture steps the genotype has not changed, up to the last."""
    steps = [0, *(row["architecture_steps"] for row in history)]
    pairs = zip(history, steps[:-1], strict=True)
    ends = [row["changed"] > 0 or row["architecture_steps"] == before for row, before in pairs]
    return [*reversed(ends), True].index(True)


def log_epoch(rows: Sequence[Row], space: Genotype) -> None:
    """Log what the last of `rows` has found, and warn of a genotype that is decided before anything is learned."""
    row, epochs = rows[-1], history_of(rows, space).epochs
    log.info(
        "epoch %d: loss %.4f; %d blocks changed, the genotype has stood for %d epochs; %d architecture steps",
        row["epoch"], row["loss"], row["changed"], row["unchanged_epochs"], row["architecture_steps"],
    )  # fmt: skip
    for line in _described(epochs[-1], Genotype.from_dict(row["genotype"])):
        log.info("  %s", line)
    if collapses(epochs):
        log.warning(
            "the genotype is nearly decided, but the loss has hardly fallen since architecture steps began: "
            "start them later (--ALPHA_START)"
        )


def _described(epoch: SearchEpoch, genotype: Genotype) -> Iterator[str]:
    """Yield a line per stream: each block's operation, and how decided it is."""
    for stream, rows in (("enc", genotype.encoder), ("dec", genotype.decoder)):
        pairs = zip(rows, epoch.probabilities[stream], strict=True)
        blocks = (f"{name} {entropy(p):.2f}/{margin(p):.2f}" for [name], p in pairs)
        yield f"{stream} (entropy/margin): {', '.join(blocks)}"


def chosen(rows: Sequence[Row], scored: Sequence[Scored], search: SearchConfig) -> dict[int, Genotype]:
    """Log how a search has ended; return the genotype that replaces the last epoch's, if one was chosen."""
    if search.strategy == "paper" and not rows[-1]["architecture_steps"]:
        log.warning("the warm-up has not ended, and no architecture was learned: use more epochs (--MAX_EPOCH)")
    if not scored:
        return {}
    log.info("chosen: the best of %d genotypes on the held-out part, loss %.4f", len(scored), scored[0].loss)
    return {rows[-1]["epoch"]: scored[0].genotype}
