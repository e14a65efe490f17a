"""What is never scored, and what is scored in another way: damaged weights, data with few answers or no types."""

import json
import shutil

import pytest
import torch

from mmnas.run.cli import parse
from mmnas.run.plan import make_plan
from mmnas.tasks.vqa import VQATask
from tests.places import annotation_places


@pytest.mark.parametrize(
    ("fixture", "weight"),
    [
        ("trained", "head.classifier.weight"),
        ("grounded", "head.score.weight"),
        ("grounded", "head.box.weight"),
        ("matched", "head.classifier.weight"),
    ],
)
def test_outputs_that_overflow_leave_no_result(request, place, run, fixture, weight):
    trained = request.getfixturevalue(fixture)
    values = torch.load(trained.checkpoint("base", "epoch2.pkl"), weights_only=True)
    values["model"][weight] = torch.full_like(values["model"][weight], 3e38)
    torch.save(values, place.folder / "damaged.pkl")
    place.task = trained.task
    done = run(place, "--RUN=val", f"--CKPT_PATH={place.folder}/damaged.pkl", "--VERSION=mine")
    assert done.code == 2 and "Traceback" not in done.output
    last = done.output.splitlines()[-1]
    assert last.startswith("error: ") and "damaged.pkl gives NaN or infinite numbers for sample 0" in last
    assert fixture == "matched" or "sample 0 (image " in last
    assert not list((place.folder / "logs").rglob("result_run_mine*"))


@pytest.fixture
def few(place, tmp_path):
    """A workplace whose val questions have one answer each, the usual one, and no types."""
    for name in ("vqa", "coco_extract", "word_vectors"):
        shutil.copytree(place.data / name, tmp_path / "data" / name)
    place.data = tmp_path / "data"
    path = annotation_places(place.data, "val")[0]
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        entry["answers"] = [{"answer": entry["multiple_choice_answer"]}]
        del entry["question_type"], entry["answer_type"]
    path.write_text(json.dumps(content))
    return place


def test_few_answers_are_told_and_scored_by_exact_match(few, run):
    count = len(json.loads(annotation_places(few.data, "val")[0].read_text())["annotations"])
    told = f"{count} of {count} questions of val have fewer than ten answers"
    done = run(few, *few.train_flags("one", "--MAX_EPOCH=1"))
    assert done.code == 0 and told in done.output and "--METRIC=exact" in done.output, done.output
    plain = run(few, "--RUN=val", "--VERSION=one")
    assert (
        plain.code == 0
        and told in plain.output
        and few.result("val", "one", "metrics.json")["official"]["overall"] == 0
    )
    exact = run(few, "--RUN=val", "--VERSION=one", "--METRIC=exact")
    assert exact.code == 0 and told not in exact.output and "scored by exact match" in exact.output, exact.output
    metrics, meta = few.result("val", "one", "metrics.json"), few.result("val", "one", "meta.json")
    usual = {
        entry["question_id"]: entry["multiple_choice_answer"]
        for entry in json.loads(annotation_places(few.data, "val")[0].read_text())["annotations"]
    }
    right = [row["answer"] == usual[row["question_id"]] for row in few.result("val", "one")]
    assert set(metrics) == {"exact"} and metrics["exact"]["overall"] == pytest.approx(100 * sum(right) / count)
    assert metrics["exact"]["overall"] > 0 and meta["config"]["data"]["metric"] == "exact"


def test_annotations_without_types_make_no_row_without_a_name(few, run):
    assert run(few, *few.train_flags("one", "--MAX_EPOCH=1", "--METRIC=exact")).code == 0
    assert run(few, "--RUN=val", "--VERSION=one").code == 0  # the metric is the checkpoint's
    metrics, meta = few.result("val", "one", "metrics.json"), few.result("val", "one", "meta.json")
    assert metrics["exact"]["answer_type"] == metrics["exact"]["question_type"] == {}
    assert list(meta["summary"]) == ["overall"]


@pytest.mark.parametrize("run", ["val", "train"])
def test_the_metric_may_differ_from_the_checkpoints(trained, run):
    checkpoint = f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}"
    flags = [f"--RUN={run}", checkpoint, "--VERSION=new", "--METRIC=exact"]
    assert make_plan(VQATask, parse(VQATask, flags)).config.data.metric == "exact"
