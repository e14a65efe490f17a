"""What a search notes and logs after an epoch, and the signs by which it warns or stops."""

import logging

import numpy as np
import pytest

from mmnas.genotype import search_space
from mmnas.models.cost import Cost
from mmnas.search.epochs import history_of, log_epoch, row_of, standing
from mmnas.search.history import SearchEpoch, collapses

SPACE = search_space(1, 1, ["self_att_64", "feed_forward"], ["guided_att_64", "feed_forward"])
UNIFORM, DECIDED = [np.array([0.5, 0.5])] * 2, [np.array([0.99, 0.01])] * 2


def epoch(number, loss, steps, row):
    return SearchEpoch(number, loss, steps, 0, 1, {"enc": [row], "dec": [row]})


def rows_of(*paths):
    rows = []
    for number, path in enumerate(paths, start=1):
        row = row_of(rows, SPACE.take(path), Cost(7, 5), UNIFORM, steps=3 * (number - 1))
        rows.append({"epoch": number, "loss": 4.0, **row})
    return rows


def test_a_row_tells_how_long_a_genotype_has_stood_and_what_it_costs():
    rows = rows_of([0, 0], [0, 0], [1, 0], [0, 1])
    assert [row["changed"] for row in rows] == [0, 0, 1, 2]
    assert [row["unchanged_epochs"] for row in rows] == [1, 2, 1, 1]
    last = history_of(rows, SPACE).epochs[-1]
    assert (last.parameters, last.multiply_adds, last.architecture_steps) == (7, 5, 9)
    assert last.entropy == 1  # of uniform probabilities


def test_epochs_without_architecture_steps_do_not_count_as_standing():
    assert standing([]) == 0
    assert standing(rows_of([0, 0])) == 0
    assert standing(rows_of([0, 0], [0, 0], [0, 0])) == 2
    assert standing(rows_of([0, 0], [0, 0], [1, 0], [1, 0])) == 1


@pytest.mark.parametrize(
    ("losses", "rows", "expected"),
    [
        ((4.0, 4.0), (UNIFORM, DECIDED), True),
        ((4.0, 3.9), (UNIFORM, DECIDED), True),
        ((4.0, 3.0), (UNIFORM, DECIDED), False),  # something was learned
        ((4.0, 4.0), (UNIFORM, UNIFORM), False),  # nothing is decided
    ],
)
def test_a_search_collapses_when_entropy_falls_before_the_loss_does(losses, rows, expected, caplog, monkeypatch):
    rows = [
        {"epoch": number, "loss": loss, **row_of([], SPACE.take([0, 0]), Cost(), p, steps=number - 1)}
        for number, (loss, p) in enumerate(zip(losses, rows, strict=True), start=1)
    ]
    monkeypatch.setattr(logging.getLogger("mmnas"), "propagate", True)
    log_epoch(rows, SPACE)
    assert ("nearly decided, but the loss has hardly fallen" in caplog.text) == expected


def test_a_collapse_is_measured_from_the_end_of_the_warm_up():
    """The loss of the first epochs says nothing about what was learned since alphas move."""
    epochs = [epoch(1, 9.0, 0, [0.5, 0.5]), epoch(2, 4.0, 0, [0.5, 0.5]), epoch(3, 3.9, 8, [0.99, 0.01])]
    assert collapses(epochs) and not collapses(epochs[:2])
    assert not collapses([epochs[0], epochs[2]])
