"""Searching from the command line, for the three tasks: what it writes, what it keeps apart, how it resumes."""

import json
import logging
import signal

import numpy as np
import pytest
import torch

from mmnas.engine.checkpoint import load_checkpoint
from mmnas.engine.distributed import Group
from mmnas.errors import MMNasError
from mmnas.genotype import read_genotypes
from mmnas.run.plan import Request, make_plan
from mmnas.run.session import prepare
from mmnas.search.history import read_history
from mmnas.search.searcher import Searcher
from mmnas.tasks import task_named
from tests.conftest import Workplace
from tests.stand_in import NoScalars

TASKS = ("vqa", "vgd", "itm")


def best_path(searcher):
    return searcher.limits.most_probable(searcher.architecture.probabilities())[0]


def searcher_of(name, world, folder, resume=False, **overrides):
    """Return the searcher of a task as --RUN=search makes it, two epochs and no workers."""
    place = Workplace(folder, world, name)
    settings = {"paths.data": str(world), "paths.logs": str(folder / "logs"), **overrides}
    file = str(place.folder / "small.yml")
    request = Request("search", size="tiny", version="found", file=file, resume=resume, overrides=settings)
    plan = make_plan(task_named(name), request)
    task = task_named(name)(plan.config)
    torch.manual_seed(0)
    return Searcher(task, prepare(task, plan), plan.genotype, Group(), plan.folder, keep_all=True)


@pytest.mark.parametrize("name", TASKS)
def test_a_search_writes_every_epochs_genotype_and_any_of_them_trains(tmp_path, world, run, name):
    place = Workplace(tmp_path, world, name)
    done = run(place, *place.search_flags("found", "--MAX_EPOCH=3"))
    assert done.code == 0, done.output
    genotypes = read_genotypes(tmp_path / "logs/ckpts/arch/found.json")
    assert list(genotypes) == [1, 2, 3]
    assert [len(genotype.encoder) for genotype in genotypes.values()] == [2, 2, 2]
    history = read_history(tmp_path / "logs/log/search_found.json")
    steps = [epoch.architecture_steps for epoch in history.epochs]
    assert steps[0] == 0 and 0 < steps[1] < steps[2]
    for said in ("epoch 3: loss", "blocks changed", "has stood for", "entropy/margin", "feed_forward 0."):
        assert said in done.output
    trained = run(place, "--RUN=train", "--SPLIT=train", "--VERSION=use", *place.sizes, "--MAX_EPOCH=1",
                  "--GENO_PATH=logs/ckpts/arch/found.json", "--GENO_EPOCH=2")  # fmt: skip
    assert trained.code == 0, trained.output
    held = load_checkpoint(place.checkpoint("use", "epoch1.pkl")).genotype
    assert held == genotypes[2].to_dict()


@pytest.mark.parametrize("name", ["vqa", "vgd"])
def test_the_two_parts_of_the_data_have_no_sample_in_common(tmp_path, world, name):
    searcher = searcher_of(name, world, tmp_path)
    weights, alphas = (seen(loader) for loader in (searcher.loader, searcher.alpha_loader))
    whole = len(searcher.task.training_set())
    assert not weights & alphas
    assert weights == set(range(whole * 4 // 5)) and weights | alphas == set(range(whole))


def seen(loader):
    return {int(index) for batch in loader for index in batch["index"]}


def test_matching_cuts_between_images_and_draws_negatives_within_each_part(tmp_path, world):
    searcher = searcher_of("itm", world, tmp_path)
    searcher._prepare_epoch()
    weights, alphas = searcher.datasets
    assert not set(weights.images.image_ids) & set(alphas.images.image_ids)
    assert (len(weights.images), len(alphas.images)) == (19, 5)  # of 24, none of them cut between its captions
    for part in (weights, alphas):
        assert len(part.tokens) == 5 * len(part.images)
        assert int(part.negatives[:, 0].max()) < len(part.tokens)
        assert int(part.negatives[:, 1].max()) < len(part.images)


def test_weights_and_architecture_parameters_are_disjoint_and_all_there_is(tmp_path, world):
    searcher = searcher_of("vqa", world, tmp_path)
    weights = {id(p) for group in searcher.optimizer.param_groups for p in group["params"]}
    alphas = {id(p) for group in searcher.alpha_optimizer.param_groups for p in group["params"]}
    assert not weights & alphas
    assert weights == {id(p) for p in searcher.supernet.parameters()}
    assert alphas == {id(p) for p in searcher.architecture.parameters()}


def test_an_architecture_step_fetches_the_gradients_of_all_blocks_in_one_copy(tmp_path, world, monkeypatch):
    searcher = searcher_of("vqa", world, tmp_path, **{"search.alpha_start": 0, "search.alpha_every": 1})
    fetched, averaged, fetch = [], [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: fetched.append(tensor) or fetch(tensor))
    monkeypatch.setattr(Group, "average", lambda _, tensors: averaged.extend(tensors))
    searcher._architecture_step(next(iter(searcher.alpha_loader)), 0)
    gates = sum(len(alpha) for alpha in searcher.architecture.alphas)
    assert [len(each) for each in fetched] == [len(each) for each in averaged] == [gates + 1]  # and the loss


def test_only_the_path_moves_in_a_weight_step_and_only_alphas_in_an_architecture_step(tmp_path, world):
    searcher = searcher_of("vqa", world, tmp_path, **{"search.alpha_start": 0, "search.alpha_every": 1})
    batches = searcher._inputs()
    (batch, held_out), (other, _) = next(batches), next(batches)
    searcher._take_step((batch, None), 0, 1e-3)
    before = snapshot(searcher)
    path = searcher.architecture.draw(searcher._rng(1, 1))
    searcher._take_step((other, None), 1, 1e-3)
    after = snapshot(searcher)
    for number, (block, taken) in enumerate(zip(searcher.supernet.blocks, path, strict=True)):
        for index, candidate in enumerate(block):
            weights = [id(p) for p in candidate.parameters()]
            moved = [not same(before[key], after[key]) for key in weights]
            assert all(moved) if index == taken else not any(moved), (number, index)
    alphas = [alpha.tolist() for alpha in searcher.architecture.alphas]
    searcher._architecture_step(held_out, 1)
    assert all(same(after[key], value) for key, value in snapshot(searcher).items())
    assert all(p.grad is None for p in searcher.supernet.parameters())
    assert all(old != new.tolist() for old, new in zip(alphas, searcher.architecture.alphas, strict=True))


def snapshot(searcher):
    """Every weight, and its two moments in the optimiser where it has been moved."""
    state = searcher.optimizer.state
    kept = {}
    for p in searcher.supernet.parameters():
        moments = [state[p][key].clone() for key in ("exp_avg", "exp_avg_sq", "step")] if p in state else []
        kept[id(p)] = [p.detach().clone(), *moments]
    return kept


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("vqa", ["--ALPHA_MODE=full"]),
        ("vgd", ["--ALPHA_MODE=two", "--PARAMS=100K", "--CHOOSE=3"]),
        ("itm", ["--ALPHA_MODE=full"]),
        ("vqa", ["--SEARCH=evolution", "--CHOOSE=9", "--SAMPLING=fair", "--MAX_EPOCH=2"]),
    ],
)
def test_resumed_search_equals_the_uninterrupted_one_to_the_bit(tmp_path, world, few_images, name, own):
    place = Workplace(tmp_path, few_images if name == "vqa" else world, name)  # VQA has many questions per image
    flags = ["--KEEP_ALL", "--MAX_EPOCH=4", "--BS=4", "--NW=1", *own]
    output, code = place.stop_in_second_epoch("cut", flags, signal.SIGINT, search=True)
    assert code == 130, output
    assert "--RUN=search --RESUME --VERSION=cut" in output.splitlines()[-1]
    assert len(list(place.checkpoint("cut", "x").parent.glob("*_step*.pkl"))) == 1
    for run in (["--RUN=search", "--VERSION=cut", "--RESUME", "--KEEP_ALL"], place.search_flags("whole", *flags)):
        process = place.script(*run)
        assert process.wait(timeout=240) == 0, process.communicate()[0]
    last = max(whole.name for whole in place.checkpoint("whole", "x").parent.glob("epoch?.pkl"))
    cut, whole = (load_checkpoint(place.checkpoint(version, last)) for version in ("cut", "whole"))
    assert cut.history == whole.history
    for part in ("model", "optimizer", "search"):
        assert_equal(getattr(cut, part), getattr(whole, part))
    for form in ("ckpts/arch/{}.json", "log/search_{}.json"):
        found = [(tmp_path / "logs" / form.format(version)).read_text() for version in ("cut", "whole")]
        assert found[0] == found[1]


def assert_equal(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.mark.slow
def test_two_processes_search_as_one_does(place, world):
    """The sum over a batch of 16 is twice the mean over two of 8; a clipped gradient and Adam forget the factor."""
    settings = (place.folder / "small.yml").read_text().replace("workers: 0", "workers: 0, clip_norm: 1.0e-2")
    (place.folder / "small.yml").write_text(settings)
    for version, flags in (("one", ["--BS=16"]), ("two", ["--BS=8", "--GPU=cpu,cpu"])):
        process = place.script(*place.search_flags(version, "--MAX_EPOCH=2", "--CHOOSE=2", *flags))
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    one, two = (load_checkpoint(place.checkpoint(version, "epoch2.pkl")) for version in ("one", "two"))
    assert two.processes == 2 and one.steps_per_epoch == two.steps_per_epoch
    assert one.history[1]["architecture_steps"] == two.history[1]["architecture_steps"] > 10
    for alphas, others in zip(one.search["alphas"].values(), two.search["alphas"].values(), strict=True):
        torch.testing.assert_close(alphas, others, atol=2e-3, rtol=0)
    assert [row["genotype"] for row in one.history] == [row["genotype"] for row in two.history]
    chosen = [read_history(place.folder / f"logs/log/search_{version}.json").scored for version in ("one", "two")]
    assert [each.genotype for each in chosen[0]] == [each.genotype for each in chosen[1]]
    for name, weight in one.model.items():
        torch.testing.assert_close(weight, two.model[name], atol=2e-3, rtol=1e-2, msg=name)


def test_processes_that_differ_in_their_alphas_are_told(tmp_path, world):
    searcher = searcher_of("vqa", world, tmp_path)

    class Strangers(Group):
        def gather(self, rows):
            return [*rows, [[0.5, 0.5]]]

    searcher.group, searcher.step = Strangers(), 1
    with pytest.raises(MMNasError, match="different architecture parameters"):
        searcher._finish_epoch()


def test_patience_counts_unchanged_epochs_with_architecture_steps(tmp_path, world):
    overrides = {"search.alpha_lr": 1e-6, "search.patience": 2, "training.epochs": 9, "search.alpha_start": 2}
    searcher = searcher_of("vqa", world, tmp_path, **overrides)
    searcher.fit(NoScalars())
    assert searcher.epoch == 4  # two epochs of weights alone, two that moved alphas and changed no block
    assert [row["unchanged_epochs"] for row in searcher.history] == [1, 2, 3, 4]
    assert not searcher._unfinished()


def test_the_prior_survives_until_alphas_learn(tmp_path, world):
    searcher = searcher_of("vqa", world, tmp_path)
    assert searcher.genotype.take(best_path(searcher)).encoder == (("self_att_64",), ("feed_forward",))
    np.testing.assert_allclose(searcher.architecture.probabilities()[0], [0.8808, 0.1192], atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--GENO_PATH=x.json"], "--RUN=search finds a genotype: leave out --GENO_PATH"),
        (["--CKPT_PATH=x.pkl"], "leave out --CKPT_PATH"),
        (["--COMPILE"], "leave out --COMPILE"),
        (["--ALPHA_START=-1"], "search.alpha_start must be an integer of at least 0"),
        (["--ALPHA_EVERY=0"], "search.alpha_every must be an integer of at least 1"),
        (["--ALPHA_MODE=three"], "--ALPHA_MODE=three is unknown; valid ones: full, two"),
        (["--RESUME"], "no checkpoint in"),
        (["--SEARCH=darts"], "--SEARCH=darts is unknown; valid ones: paper, random, evolution"),
        (["--MACS=2T"], "macs must be a number such as 40M or 2.0G, not '2T'"),
        (["--PARAMS=1K"], "--PARAMS=1000 is too small: no genotype takes less than"),
        (["--CHOOSE=-1"], "search.choose must be an integer of at least 0"),
    ],
)
def test_mistaken_flags_are_one_line(place, run, flags, message):
    done = run(place, *place.search_flags("found", *flags))
    assert done.code == 2 and message in done.output and len(done.output.splitlines()) == 1


def test_flags_of_a_search_do_not_pass_unnoticed_elsewhere(place, run):
    done = run(place, *place.train_flags("one", "--PATIENCE=3"))
    assert done.code == 2 and "--PATIENCE belongs to --RUN=search, not to --RUN=train" in done.output


def test_a_search_does_not_write_over_genotypes_that_are_there(place, run):
    """A search named after a published architecture would put its own in that file."""
    folder = place.folder / "logs/ckpts/arch"
    folder.mkdir(parents=True)
    (folder / "train_vqa.json").write_text(json.dumps({}))
    done = run(place, *place.search_flags("train_vqa"))
    assert done.code == 2 and "train_vqa.json exists" in done.output


def test_a_search_and_a_training_run_do_not_take_each_others_checkpoints(trained, place, run):
    assert run(place, *place.search_flags("found", "--MAX_EPOCH=1")).code == 0
    done = run(place, "--RUN=val", "--VERSION=found")
    assert done.code == 2 and "is of a search" in done.output
    assert "--GENO_PATH=logs/ckpts/arch/found.json" in done.output
    path = trained.checkpoint("base", "epoch2.pkl")
    done = run(place, "--RUN=search", "--RESUME", f"--CKPT_PATH={path}")
    assert done.code == 2 and "is of a training run" in done.output


# Limits, the choice at the end, the controls, warm-up

SMALL = {"search.alpha_start": 0, "search.alpha_every": 1, "training.epochs": 2, "search.alpha_init": "uniform"}


def searched(name, world, folder, **overrides):
    """Run a search to its end; return it and the history that it wrote."""
    folder.mkdir(exist_ok=True)
    searcher = searcher_of(name, world, folder, **{**SMALL, **overrides})
    searcher.fit(NoScalars())
    return searcher, read_history(folder / "logs/log/search_found.json")


def test_the_choice_is_the_best_of_the_most_probable_genotypes_on_the_held_out_part(tmp_path, few_images):
    searcher, history = searched("vqa", few_images, tmp_path, **{"search.choose": 6})
    assert len(history.scored) == 6
    losses = [each.loss for each in history.scored]
    assert losses == sorted(losses) and losses[0] < losses[-1]
    written = read_genotypes(tmp_path / "logs/ckpts/arch/found.json")
    assert list(written) == [1, 2] and written[2] == history.scored[0].genotype
    assert written[1].to_dict() == searcher.history[0]["genotype"]
    paths = searcher.limits.most_probable(searcher.architecture.probabilities(), 6)
    assert {searcher.genotype.take(path) for path in paths} == {each.genotype for each in history.scored}
    first = searcher.held_out().loss(paths[0])
    assert first == next(each.loss for each in history.scored if each.genotype == searcher.genotype.take(paths[0]))


@pytest.mark.parametrize("name", ["vgd", "itm"])
@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_a_control_moves_no_alphas_and_finds_its_genotype_in_the_end(tmp_path, few_images, name, strategy):
    overrides = {"search.strategy": strategy, "search.choose": 5, "training.epochs": 1}
    searcher, history = searched(name, few_images, tmp_path, **overrides)
    assert all(not alpha.any() for alpha in searcher.architecture.alphas)
    assert [each.architecture_steps for each in history.epochs] == [0]
    assert len({each.genotype for each in history.scored}) == 5
    assert list(read_genotypes(tmp_path / "logs/ckpts/arch/found.json").values()) == [history.scored[0].genotype]


def test_a_control_writes_no_genotype_before_its_end(tmp_path, few_images):
    searcher = searcher_of("vqa", few_images, tmp_path, **{**SMALL, "search.strategy": "random"})
    row = {"epoch": 1, "loss": 1.0}
    searcher._complete(row)
    searcher.history, searcher.epoch = [row], 1
    searcher._after_epoch()
    assert (tmp_path / "logs/log/search_found.json").exists()
    assert not (tmp_path / "logs/ckpts/arch/found.json").exists()


@pytest.fixture(scope="module")
def free(tmp_path_factory, few_images):
    """A search without limits."""
    return searched("vqa", few_images, tmp_path_factory.mktemp("free"))[0]


@pytest.mark.parametrize(
    "overrides",
    [{"search.strategy": "random", "search.choose": 3}, {"search.sampling": "fair", "search.choose": 3}],
)
def test_a_resumed_search_chooses_the_same(tmp_path, few_images, overrides):
    whole, history = searched("vqa", few_images, tmp_path / "whole", **overrides)
    searched("vqa", few_images, tmp_path / "half", **overrides, **{"training.epochs": 1})
    half = load_checkpoint(tmp_path / "half/logs/ckpts/ckpt_found/epoch1.pkl")
    again = searcher_of("vqa", few_images, tmp_path / "half", resume=True, **{**SMALL, **overrides})
    again.restore(half, tmp_path)
    again.fit(NoScalars())
    assert read_history(tmp_path / "half/logs/log/search_found.json") == history
    assert_equal(dict(again.model.state_dict()), dict(whole.model.state_dict()))


def test_limits_that_bind_nothing_leave_a_search_to_the_bit(tmp_path, few_images, free):
    limits = {"search.macs": "1000G", "search.params": "1000G", "search.max_skip": 5}
    limited, _ = searched("vqa", few_images, tmp_path, **limits)
    assert_equal(free.architecture.state_dict(), limited.architecture.state_dict())
    assert_equal(dict(free.model.state_dict()), dict(limited.model.state_dict()))
    assert free.history == limited.history


def test_a_budget_holds_for_every_epoch_and_lowers_the_expected_cost(tmp_path, few_images, free):
    """A quarter above the cheapest genotype; the found one is as near to it as these few candidates allow."""
    least = sum(min(cost.parameters for cost in row) for row in free.limits.costs)
    budget = f"{1.25 * least:.0f}"
    limited, history = searched("vqa", few_images, tmp_path, **{"search.params": budget})
    assert all(0.75 * int(budget) < each.parameters <= int(budget) for each in history.epochs)
    expected = [
        sum(
            float(p @ [cost.parameters for cost in row])
            for p, row in zip(each.architecture.probabilities(), each.limits.costs, strict=True)
        )
        for each in (free, limited)
    ]
    assert expected[1] < 0.9 * expected[0]
    assert expected[1] < 1.03 * int(budget)


def test_the_number_of_blocks_without_parameters_is_limited(tmp_path, few_images):
    candidates = ["feed_forward", "skip_connect"]
    overrides = {"search.encoder_candidates": candidates, "search.decoder_candidates": candidates}
    searcher = searcher_of("vqa", few_images, tmp_path, **SMALL, **overrides, **{"search.max_skip": 1})
    for block, alpha in enumerate(searcher.architecture.alphas):
        alpha.data.copy_(torch.tensor([0.0, 1.0 + block]))  # skipping is likely everywhere, most in the last block
    found = searcher.genotype.take(best_path(searcher))
    assert [*found.encoder, *found.decoder] == [("feed_forward",)] * 4 + [("skip_connect",)]


def test_a_search_does_not_stop_before_its_least_number_of_epochs(tmp_path, few_images):
    """Of five epochs with architecture steps, none of which has changed a block."""
    overrides = {**SMALL, "search.patience": 2, "search.min_epochs": 4, "training.epochs": 9}
    searcher = searcher_of("vqa", few_images, tmp_path, **overrides)
    searcher.history = [{"architecture_steps": 3 * number, "changed": 0} for number in range(1, 6)]
    for searcher.epoch in (2, 3):
        assert searcher._unfinished()
    searcher.epoch = 4
    assert not searcher._unfinished()


def test_a_warm_up_that_never_ends_is_told(tmp_path, few_images, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mmnas"), "propagate", True)
    searched("vqa", few_images, tmp_path, **{"search.alpha_start": 1, "training.epochs": 1})
    assert "the warm-up has not ended, and no architecture was learned" in caplog.text


def test_fair_paths_take_each_candidate_of_a_block_equally_often(tmp_path, few_images):
    overrides = {**SMALL, "search.alpha_start": 9, "search.sampling": "fair"}
    searcher = searcher_of("vqa", few_images, tmp_path, **overrides)
    paths = [searcher._path(number) for number in range(8)]
    for block, alpha in enumerate(searcher.architecture.alphas):
        taken, size = [path[block] for path in paths], len(alpha)
        for first in range(0, 8, size):
            assert sorted(taken[first : first + size]) == list(range(size))
    assert len(set(map(tuple, paths))) == 8  # and blocks do not go together
    assert paths == [searcher._path(number) for number in range(8)]
    later = 9 * len(searcher.sampler)  # alphas decide once architecture steps begin
    assert searcher._path(later) == searcher.architecture.draw(searcher._rng(1, later))
