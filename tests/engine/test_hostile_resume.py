"""Resuming from a checkpoint that another program wrote or altered: refused in one line, whatever it holds."""

import pytest
import torch

from mmnas.engine.checkpoint import load_checkpoint
from tests.conftest import Workplace


def storage_end(shape):
    """Return a tensor of zeros of which all but the first would lie behind the end of its storage."""
    return torch.zeros(10_000)[-1:].expand(shape)


def moment(change):
    """Return what alters the second moment of the first weight."""

    def alter(values):
        moments = values["optimizer"]["state"][0]
        moments["exp_avg_sq"] = change(moments["exp_avg_sq"])

    return alter


def group(**settings):
    return lambda values: values["optimizer"]["param_groups"][0].update(settings)


def field(**fields):
    return lambda values: values.update(fields)


ALTERED = {
    "a moment without shape": moment(lambda value: torch.tensor(0.0)),
    "a moment at the end of its storage": moment(lambda value: storage_end(value.shape)),
    "a moment of another type": moment(lambda value: value.double()),
    "a moment of integers": moment(lambda value: value.int()),
    "a moment turned around": moment(lambda value: value.t()),
    "a negative second moment": moment(lambda value: value - 1),
    "an infinite moment": moment(lambda value: value + torch.inf),
    "a moment that is a number": moment(lambda value: 3),
    "a step of a moment with a shape": lambda values: values["optimizer"]["state"][0].update(step=torch.ones(9)),
    "a missing moment": lambda values: values["optimizer"]["state"][0].pop("exp_avg"),
    "a foreign moment": lambda values: values["optimizer"]["state"][0].update(max_exp_avg_sq=torch.ones(3)),
    "moments of no parameter": lambda values: values["optimizer"]["state"].update({10**6: {}}),
    "training upwards": group(maximize=True),
    "other betas": group(betas=(0.0, 0.0)),
    "betas of text": group(betas="ab"),
    "a decay of tensors": group(weight_decay=torch.ones(3)),
    "no parameters": group(params=[]),
    "a second group": lambda values: values["optimizer"]["param_groups"].append({"params": []}),
    "no optimizer": field(optimizer={}),
    "an epoch without end": field(epoch=2**62),
    "an epoch that is not in the history": field(epoch=1),
    "a step beyond the epoch": field(step=10**6, steps_per_epoch=5),
    "a step of another data set": field(step=1, steps_per_epoch=10**6),
    "a loss that is not a number": field(loss_sum=float("nan")),
    "no processes": field(processes=0),
    "a history out of order": lambda values: values["history"].reverse(),
    "a history with an infinite loss": lambda values: values["history"][0].update(loss=float("inf")),
}


@pytest.mark.parametrize("kind", ALTERED)
def test_an_altered_checkpoint_is_refused_in_one_line(trained, place, run, kind):
    refused(trained, place, run, "train", ALTERED[kind])


def refused(source, place, run, what, alter):
    values = torch.load(source.checkpoint("base", "epoch2.pkl"), weights_only=True)
    alter(values)
    path = place.checkpoint("base", "epoch2.pkl")
    path.parent.mkdir(parents=True)
    torch.save(values, path)
    done = run(place, f"--RUN={what}", "--RESUME", "--VERSION=base", "--MAX_EPOCH=3")
    assert done.code == 2, done.output
    lines = [line for line in done.output.splitlines() if "error" in line or "Traceback" in line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and "epoch2.pkl" in lines[0], done.output
    assert len(lines[0]) < 600


@pytest.fixture(scope="module")
def searched(tmp_path_factory, few_images):
    """A workplace with a search "base" of two epochs."""
    place = Workplace(tmp_path_factory.mktemp("searched"), few_images)
    process = place.script(*place.search_flags("base"))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return place


def row(**fields):
    return lambda values: values["history"][1].update(fields)


def alphas(change):
    def alter(values):
        held = values["search"]["alphas"]
        held["alphas.0"] = change(held["alphas.0"])

    return alter


ALTERED_SEARCHES = {
    "alphas that are not numbers": alphas(lambda value: value * torch.nan),
    "alphas of another shape": alphas(lambda value: torch.zeros(7)),
    "alphas that are text": alphas(lambda value: "high"),
    "alphas of integers": alphas(lambda value: value.int()),
    "no alphas": lambda values: values["search"].pop("alphas"),
    "no optimizer of the alphas": lambda values: values["search"].pop("optimizer"),
    "alphas that train upwards": lambda values: values["search"]["optimizer"]["param_groups"][0].update(
        maximize=True
    ),
    "another search space": lambda values: values["genotype"].update(enc=values["genotype"]["enc"][:1]),
    "a row without a genotype": lambda values: values["history"][1].pop("genotype"),
    "a genotype of no search space": row(genotype={"enc": [["gelu"]] * 2, "dec": [["gelu"]] * 3}),
    "a genotype that is text": row(genotype="best"),
    "probabilities of text": row(probabilities="all"),
    "probabilities of too few blocks": row(probabilities=[[0.5, 0.5]]),
    "probabilities of too many candidates": row(probabilities=[[0.0] * 9 + [1.0]] * 5),
    "a negative number of steps": row(architecture_steps=-1),
    "steps before they began": lambda values: values["history"][0].update(architecture_steps=3),
    "no steps after they began": row(architecture_steps=0),
    "more changes than there are": row(changed=4),
    "a genotype that stands for longer": row(unchanged_epochs=9),
    "other costs": row(multiply_adds=1),
    "figures of another task": row(metrics={"overall": 99.0}),
    "a row without its changes": lambda values: values["history"][1].pop("changed"),
}


@pytest.mark.parametrize("kind", ALTERED_SEARCHES)
def test_an_altered_search_is_refused_in_one_line(searched, tmp_path, few_images, run, kind):
    refused(searched, Workplace(tmp_path, few_images), run, "search", ALTERED_SEARCHES[kind])


@pytest.mark.parametrize("value", [-1, 10**9, -(2**31)])
def test_negatives_that_no_caption_has_are_refused(matched, place, run, value):
    place = Workplace(place.folder, place.data, "itm")
    held = load_checkpoint(matched.checkpoint("base", "epoch2.pkl"))

    def alter(values):
        count = 5 * 24
        negatives = torch.zeros(count, 2, dtype=torch.int32)
        negatives[3, 1] = value
        values.update(step=1, steps_per_epoch=steps, task_state={"negatives": negatives})

    steps = held.steps_per_epoch
    refused(matched, place, run, "train", alter)
