"""Fine-tuning VQA on other answers: never in vain without a word, and with a new answer list on request."""

import json
import shutil

import pytest

from mmnas.engine.checkpoint import load_checkpoint


@pytest.fixture
def elsewhere(place, tmp_path):
    """The demo world with all its answers but "yes" renamed."""
    data = tmp_path / "elsewhere"
    shutil.copytree(place.data / "vqa", data / "vqa")
    (data / "coco_extract").symlink_to(place.data / "coco_extract")
    return data


def rename(data, kept=()):
    for path in (data / "vqa").glob("*annotations.json"):
        content = json.loads(path.read_text())
        for entry in content["annotations"]:
            for answer in (*entry["answers"], entry):
                key = "multiple_choice_answer" if answer is entry else "answer"
                answer[key] = answer[key] if answer[key] in kept else f"neu {answer[key]}"
        path.write_text(json.dumps(content))


def tune(run, place, trained, data, *flags):
    checkpoint = f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}"
    fixed = ["--RUN=train", "--SPLIT=train", "--MAX_EPOCH=1", "--GPU=cpu", f"--DATA_PATH={data}"]
    return run(place, *fixed, checkpoint, *flags)


def test_answers_that_are_all_unknown_are_an_error(run, place, trained, elsewhere):
    rename(elsewhere)
    done = tune(run, place, trained, elsewhere, "--VERSION=vain")
    assert done.code == 2
    assert "100.00 % of the training questions" in done.output and "'neu " in done.output
    assert "--NEW_ANSWERS" in done.output and not list(place.folder.glob("logs/ckpts/ckpt_vain/*.pkl"))


def test_answers_that_are_mostly_unknown_are_a_warning(run, place, trained, elsewhere):
    rename(elsewhere, kept=("yes", "no"))
    done = tune(run, place, trained, elsewhere, "--VERSION=partly")
    assert done.code == 0 and "'neu " in done.output and "--NEW_ANSWERS" in done.output


def test_new_answers_start_a_new_list_and_last_layer(run, place, trained, elsewhere):
    rename(elsewhere)
    done = tune(run, place, trained, elsewhere, "--VERSION=new", "--NEW_ANSWERS")
    assert done.code == 0, done.output
    old = load_checkpoint(trained.checkpoint("base", "epoch2.pkl"))
    new = load_checkpoint(place.checkpoint("new", "epoch1.pkl"))
    assert all(answer.startswith("neu ") for answer in new.vocabularies["answers"])
    assert new.vocabularies["tokens"] == old.vocabularies["tokens"] and new.genotype == old.genotype
    done = run(place, "--RUN=val", "--VERSION=new", "--GPU=cpu", f"--DATA_PATH={elsewhere}")
    assert done.code == 0 and place.result("val", "new", "meta.json")["summary"]["overall"] > 0


def test_a_new_list_may_hold_rarer_answers(run, place, trained, elsewhere):
    rename(elsewhere)
    (place.folder / "rare.yml").write_text("data: {answer_min_count: 0}\n")
    rare = f"--CFG={place.folder}/rare.yml"
    assert tune(run, place, trained, elsewhere, "--VERSION=refused", rare).code == 2
    assert tune(run, place, trained, elsewhere, "--VERSION=rare", "--NEW_ANSWERS", rare).code == 0


def test_what_fine_tuning_keeps_is_said(run, place, trained):
    output = tune(run, place, trained, place.data, "--VERSION=said").output
    assert f"fine-tuning on train under {place.data}; words, answers, genotype and sizes stay" in output


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--RUN=train", "--VERSION=a", "--NEW_ANSWERS"], "is for fine-tuning"),
        (["--RUN=val", "--VERSION=a", "--NEW_ANSWERS"], "is for fine-tuning"),
        (["--RUN=train", "--VERSION=a", "--RESUME", "--NEW_ANSWERS"], "is for fine-tuning"),
    ],
)
def test_it_is_for_fine_tuning_alone(run, place, flags, told):
    done = run(place, *flags, "--GPU=cpu")
    assert done.code == 2 and told in done.output


def test_rare_answers_are_named(run, place):
    (place.folder / "rare.yml").write_text(
        (place.folder / "small.yml").read_text().replace("count: 2", "count: 60")
    )
    flags = [f"--CFG={place.folder}/rare.yml", "--MAX_EPOCH=1"]
    output = run(place, *place.train_flags("rare"), *flags).output
    assert "occurs 60 times or fewer" in output and "data.answer_min_count" in output
