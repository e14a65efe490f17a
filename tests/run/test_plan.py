"""What a checkpoint from elsewhere may do: give weights and settings, but touch no files that are not its run's."""

import pytest
import torch
from msgspec import structs

from mmnas.engine.checkpoint import load_checkpoint, save_checkpoint

ELSEWHERE = {"data": "/nowhere", "logs": "planted", "features": "/nowhere", "word_vectors": "/nowhere"}


@pytest.fixture
def foreign(trained, place):
    """Write the trained checkpoint as one of another machine; return its path."""

    def call(name, **changes):
        values = torch.load(trained.checkpoint("base", "epoch2.pkl"), weights_only=True)
        values["config"] |= {"version": "mine", "paths": ELSEWHERE}
        values["config"]["training"]["workers"] = 1000
        path = place.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(values | changes, path)
        return path

    return call


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()}


@pytest.fixture
def mine(place):
    """The folder of a run "mine" with checkpoints of the user's own."""
    folder = place.checkpoint("mine", "x").parent
    folder.mkdir(parents=True)
    for epoch in (1, 2, 3):
        (folder / f"epoch{epoch}.pkl").write_bytes(b"precious")
    return folder


# Resuming


def test_resuming_a_checkpoint_of_elsewhere_removes_nothing(place, run, foreign, mine):
    before = contents(mine)
    flags = ["--RUN=train", "--RESUME", f"--CKPT_PATH={foreign('other/epoch2.pkl')}", "--MAX_EPOCH=3"]
    done = run(place, *flags, "--VERSION=mine")
    assert done.code == 2 and "holds checkpoints of another run" in done.output
    assert contents(mine) == before
    assert run(place, *flags).code == 0
    assert contents(mine) == before and not (place.folder / "planted").exists()
    assert place.checkpoint("other", "epoch3.pkl").is_file()


def test_files_of_others_in_the_run_s_own_folder_stay(trained, place, run, foreign):
    """Checkpoints of another seed, damaged ones, and those of the run itself, of which only the newest two stay."""
    path = foreign("logs/ckpts/ckpt_own/epoch4.pkl")
    own = load_checkpoint(path)
    rows = [{"epoch": number, "loss": 5.0 - number, "metrics": {"overall": 1.0}} for number in range(1, 5)]
    for epoch in (1, 2, 3, 4):
        save_checkpoint(
            path.with_name(f"epoch{epoch}.pkl"), structs.replace(own, epoch=epoch, history=rows[:epoch])
        )
    other = [{**rows[0], "loss": 9.0}]
    save_checkpoint(path.with_name("epoch0_step1.pkl"), structs.replace(own, epoch=1, history=other))
    path.with_name("epoch0_step2.pkl").write_bytes(b"precious")
    assert run(place, "--RUN=train", "--RESUME", "--VERSION=own", "--MAX_EPOCH=5").code == 0
    left = {"epoch0_step1.pkl", "epoch0_step2.pkl", "epoch4.pkl", "epoch5.pkl"}
    best = load_checkpoint(path.with_name("epoch5.pkl")).history[-1]["metrics"]["overall"] > 1
    assert set(contents(path.parent)) - {".lock"} == left | (set() if best else {"epoch1.pkl"})


def test_resuming_a_search_into_a_new_version_keeps_the_genotypes_of_that_name(place, run):
    assert run(place, *place.search_flags("found", "--MAX_EPOCH=1")).code == 0
    (taken := place.folder / "logs/ckpts/arch/taken.json").write_text("precious")
    flags = [f"--CKPT_PATH={place.checkpoint('found', 'epoch1.pkl')}", "--VERSION=taken", "--MAX_EPOCH=2"]
    done = run(place, "--RUN=search", "--RESUME", *flags)
    assert done.code == 2 and "taken.json exists" in done.output
    assert taken.read_text() == "precious"


# Scoring


def test_what_a_checkpoint_says_about_its_machine_is_not_obeyed(place, run, foreign):
    done = run(place, "--RUN=val", f"--CKPT_PATH={foreign('strange.pkl')}")
    assert done.code == 0, done.output
    assert place.result("val", "strange", "meta.json")["config"]["paths"]["data"] == str(place.data)
    assert place.result("val", "strange", "meta.json")["config"]["training"]["workers"] == 0
    assert not (place.folder / "planted").exists()
    assert not list(place.folder.rglob("*mine*"))


def test_the_result_of_another_checkpoint_is_not_replaced_without_a_word(trained, place, run, foreign):
    first = [f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}"]
    other = [f"--CKPT_PATH={foreign('elsewhere/epoch2.pkl')}"]
    assert run(place, "--RUN=val", *first).code == 0
    before = contents(place.folder / "logs/ckpts/result_val")
    done = run(place, "--RUN=val", *other)
    assert done.code == 2 and "result of another checkpoint" in done.output and "--VERSION" in done.output
    assert contents(place.folder / "logs/ckpts/result_val") == before
    again = run(place, "--RUN=val", *first)
    assert again.code == 0 and "another checkpoint" not in again.output
    named = run(place, "--RUN=val", *other, "--VERSION=epoch2")
    assert named.code == 0 and "result of another checkpoint and will be replaced" in named.output


def test_a_file_name_that_cannot_name_a_result_asks_for_a_version(place, run, foreign):
    long = foreign("x" * 120 + ".pkl")
    done = run(place, "--RUN=val", f"--CKPT_PATH={long}")
    assert done.code == 2 and "choose one by --VERSION" in done.output
    assert run(place, "--RUN=val", f"--CKPT_PATH={long}", "--VERSION=short").code == 0


# What the weights have seen


def test_fine_tuning_weights_of_unknown_origin_is_said_at_every_score(trained, place, run):
    """A checkpoint that does not list what it was trained on, as earlier releases wrote them."""
    own = load_checkpoint(trained.checkpoint("base", "epoch2.pkl"))
    save_checkpoint(place.folder / "old.pkl", structs.replace(own, seen_splits=[]))
    flags = ["--RUN=train", "--SPLIT=train", "--CKPT_PATH=old.pkl", "--VERSION=tuned", "--MAX_EPOCH=1"]
    done = run(place, *flags)
    assert done.code == 0 and "val may have been trained on" in done.output
    seen = load_checkpoint(place.checkpoint("tuned", "epoch1.pkl")).seen_splits
    assert seen == ["train", "train", "unknown"]
    assert run(place, "--RUN=val", "--VERSION=tuned").code == 0
    assert place.result("val", "tuned", "meta.json")["scored_split_was_trained_on"] == "unknown"
