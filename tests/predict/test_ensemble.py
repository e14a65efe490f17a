"""Averages that equal those worked out by hand, results of the usual form, and parts that do not fit together."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from mmnas.__main__ import main
from mmnas.predict.ensemble import combine, mean_logits
from mmnas.run.results import changed_files


def arrays(path, kind="scores"):
    return np.load(path.with_suffix(f".{kind}.npy"))


def read(path, kind="json"):
    return json.loads(path.with_suffix(f".{kind}").read_text())


@pytest.fixture
def copy(scored, tmp_path):
    """Copy a result under another name; return its path."""

    def call(version, name="copy"):
        for path in scored.path(version).parent.glob(f"result_run_{version}.*"):
            shutil.copy(path, tmp_path / path.name)
        return tmp_path / f"result_run_{version}.json"

    return call


def probabilities(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def parts_of(scored, task):
    return [scored.path(f"{task}_{name}") for name in ("one", "two")]


# What --SCORES writes


def test_scores_of_answers_give_the_answers(scored):
    for split in ("val", "test"):
        path = scored.path("vqa_one", split)
        scores, answers = arrays(path), arrays(path, "answers")
        assert scores.dtype == np.float16 and scores.shape == (len(read(path)), len(answers))
        best = scores.max(axis=1)
        for row, top, entry in zip(scores, best, read(path), strict=True):
            assert entry["answer"] in answers[row == top]  # halves may be equal
        assert set(read(path, "meta.json")["files"]) >= {f"{path.stem}.scores.npy", f"{path.stem}.answers.npy"}


@pytest.mark.parametrize(("split", "part"), [("val", ""), ("test", "_testA"), ("test", "_testB")])
def test_scores_of_regions_give_the_boxes(scored, split, part):
    path = scored.path("vgd_one", split, part)
    table = arrays(path)
    assert table.dtype == np.float32 and table.shape[0] == len(read(path)) and table.shape[2] == 9
    for row, entry in zip(table, read(path), strict=True):
        best = np.nanargmax(row[:, 0])
        assert row[best, 1:5].tolist() == entry["box"] and row[best, 0] == np.float32(entry["score"])
        assert np.nansum(row[:, 0]) == pytest.approx(1, abs=1e-5)


def test_without_the_flag_nothing_more_is_written(trained, place, run):
    assert run(place, "--RUN=val", f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}").code == 0
    assert not list(place.folder.rglob("*.npy"))
    assert "--SCORES belongs to" in run(place, *place.train_flags("new", "--SCORES")).output


# Averages


def test_the_logit_of_a_mean_probability():
    logits = np.array([[0.0, 3.0, -200.0, 800.0, 700.0], [2.0, -1.0, -200.0, 700.0, 650.0]])
    mean = mean_logits(list(logits))
    expected = probabilities(logits[:, :3]).mean(axis=0)
    assert probabilities(mean)[:3] == pytest.approx(expected, rel=1e-12)
    assert mean[3] > mean[4] > 600  # whose probabilities are all one in float64
    assert mean_logits([logits[0], logits[0]]) == pytest.approx(logits[0], rel=1e-12)


def test_answers_are_those_of_the_mean_probability(scored, tmp_path, capsys):
    parts, out = parts_of(scored, "vqa"), tmp_path / "both.json"
    assert main(["ensemble", *map(str, [*parts, out])]) == 0
    mean = np.mean([probabilities(arrays(part)) for part in parts], axis=0)
    answers = arrays(parts[0], "answers")
    assert [row["answer"] for row in read(out)] == answers[mean.argmax(axis=1)].tolist()
    assert probabilities(arrays(out)) == pytest.approx(mean, abs=1e-3)
    found, printed = read(out, "metrics.json")["official"], capsys.readouterr().out
    assert f"overall      {found['overall']:6.2f}" in printed
    assert found["question"].keys() == read(parts[0], "metrics.json")["official"]["question"].keys()


def test_boxes_are_averaged_for_the_region_with_the_best_mean(scored, tmp_path):
    parts, out = parts_of(scored, "vgd"), tmp_path / "both.json"
    combine(parts, out)
    mean = np.mean([arrays(part).astype(float) for part in parts], axis=0)
    best = np.nanargmax(mean[..., 0], axis=1)
    rows = np.array([row["box"] for row in read(out)])
    assert rows == pytest.approx(mean[np.arange(len(best)), best, 1:5], abs=1e-3)
    accuracy = 100 * np.mean([row["iou"] >= 0.5 for row in read(out)])
    assert read(out, "metrics.json")["accuracy"] == pytest.approx(accuracy)
    assert read(out, "metrics.json")["oracle"] == read(parts[0], "metrics.json")["oracle"]


def test_matches_are_ranked_by_the_mean_probability(scored, tmp_path):
    parts, out = parts_of(scored, "itm"), tmp_path / "both.json"
    combine(parts, out)
    mean = np.mean([probabilities(arrays(part)) for part in parts], axis=0)
    assert probabilities(arrays(out)) == pytest.approx(mean, abs=1e-6)
    assert read(out)[0]["captions"][0]["caption"] == mean[0].argmax()


@pytest.mark.parametrize("task", ["vqa", "vgd", "itm"])
def test_a_result_with_itself_scores_the_same(scored, tmp_path, task):
    path = scored.path(f"{task}_one")
    combine([path, path], tmp_path / "twice.json")
    own, twice = (read(each, "meta.json")["summary"] for each in (path, tmp_path / "twice.json"))
    assert twice == pytest.approx(own)
    combine([tmp_path / "twice.json", path], tmp_path / "again.json")
    assert read(tmp_path / "again.json", "meta.json")["summary"] == pytest.approx(own)


def test_the_provenance_names_every_part(scored, tmp_path):
    parts, out = parts_of(scored, "vqa"), tmp_path / "both.json"
    combine(parts, out)
    meta = read(out, "meta.json")
    for part, origin in zip(parts, meta["parts"], strict=True):
        own = read(part, "meta.json")
        assert origin["result"] == str(part) and origin["files"] == own["files"]
        assert origin["checkpoint_sha256"] == own["checkpoint_sha256"] and origin["summary"] == own["summary"]
        digest = hashlib.sha256(part.with_suffix(".meta.json").read_bytes()).hexdigest()
        assert origin["meta_sha256"] == digest
    assert "checkpoint" not in meta and meta["scored_on"] == "val"  # the checkpoints differ, the split does not
    assert meta["scored_split_was_trained_on"] is False and changed_files(out) == []


def test_an_ensemble_on_test_can_be_submitted(scored, tmp_path, capsys):
    path, out = scored.path("vqa_one", "test"), tmp_path / "both.json"
    combine([path, path], out)
    questions = scored.world / "vqa/v2_OpenEnded_mscoco_test2015_questions.json"
    assert main(["check-submission", str(out), str(questions)]) == 0, capsys.readouterr().out
    assert not out.with_suffix(".metrics.json").exists()


# Parts that do not fit


def refused(capsys, *paths):
    capsys.readouterr()
    assert main(["ensemble", *map(str, paths)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_other_tasks_splits_and_outputs_are_refused(scored, tmp_path, capsys):
    one, out = scored.path("vqa_one"), tmp_path / "new.json"
    assert "has the task vgd" in refused(capsys, one, scored.path("vgd_one"), out)
    assert "has the scored_on test" in refused(capsys, one, scored.path("vqa_one", "test"), out)
    assert "name two results or more" in refused(capsys, one, out)
    assert "a new .json file" in refused(capsys, one, one, scored.path("vqa_two"))
    assert "not found" in refused(capsys, one, tmp_path / "none.json", out)
    assert "put them in one of" in refused(capsys, one, one, out, f"--DATA_PATH={tmp_path}")
    assert not out.exists()


@pytest.mark.parametrize("kind", ["json", "scores.npy", "metrics.json"])
def test_altered_files_are_refused(scored, copy, tmp_path, capsys, kind):
    path = copy("vqa_two")
    changed = path.with_suffix(f".{kind}")
    content = bytearray(changed.read_bytes())
    content[-3] ^= 1 if kind == "scores.npy" else 0
    changed.write_bytes(content + (b" " if kind != "scores.npy" else b""))
    assert f"{changed.name} changed after" in refused(capsys, scored.path("vqa_one"), path, tmp_path / "new.json")


def rewritten(path, change, **arrays):
    """Change a result and its provenance, so that both fit."""
    rows = change(read(path))
    path.write_text(json.dumps(rows))
    for name, array in arrays.items():
        np.save(path.with_suffix(f".{name}.npy"), array)
    meta = read(path, "meta.json")
    hashes = {name: hashlib.sha256(path.with_name(name).read_bytes()).hexdigest() for name in meta["files"]}
    path.with_suffix(".meta.json").write_text(json.dumps({**meta, "files": hashes}))
    return path


def test_other_samples_and_answers_are_refused(scored, copy, tmp_path, capsys):
    one, out = scored.path("vqa_one"), tmp_path / "new.json"
    assert "is of other samples" in refused(capsys, one, rewritten(copy("vqa_two"), lambda rows: rows[::-1]), out)
    fewer = {"answers": arrays(one, "answers")[1:], "scores": arrays(one)[:, 1:]}
    for changed in (fewer, {"answers": arrays(one, "answers")[::-1].copy()}):
        path = rewritten(copy("vqa_two"), lambda rows: rows, **changed)
        assert "has other answers or regions" in refused(capsys, one, path, out)


def test_other_regions_are_refused(scored, copy, tmp_path, capsys):
    table = arrays(scored.path("vgd_two"))
    table[0, 0, 5] += 1
    path = rewritten(copy("vgd_two"), lambda rows: rows, scores=table)
    line = refused(capsys, scored.path("vgd_one"), path, tmp_path / "new.json")
    assert "has other answers or regions" in line


@pytest.mark.parametrize("name", [".", "/", ".."])
def test_a_folder_in_place_of_a_result_is_one_line(name, scored, tmp_path, capsys):
    assert main(["ensemble", str(scored.path("vqa_one")), name, str(tmp_path / "new.json")]) == 2
    shown = capsys.readouterr().err
    assert "Is a directory" in shown and shown.count("\n") == 1


def test_missing_scores_name_the_flag(scored, copy, tmp_path, capsys):
    path = copy("vqa_two")
    meta = read(path, "meta.json")
    del meta["files"][f"{path.stem}.scores.npy"]
    path.with_suffix(".meta.json").write_text(json.dumps(meta))
    line = refused(capsys, scored.path("vqa_one"), path, tmp_path / "new.json")
    assert line.endswith("score again with --SCORES")


def test_damaged_provenance_is_one_line(scored, copy, tmp_path, capsys):
    path = copy("vqa_two")
    for change in ({"config": {}}, {"files": 3}, {"seen_splits": "train"}):
        meta = {**read(scored.path("vqa_two"), "meta.json"), **change}
        path.with_suffix(".meta.json").write_text(json.dumps(meta))
        assert path.stem in refused(capsys, scored.path("vqa_one"), path, tmp_path / "new.json")


# Accuracy


@pytest.mark.slow
def test_three_networks_together_are_no_worse_than_one(place, run, tmp_path):
    place.task = "vgd"
    for seed in range(3):
        assert run(place, *place.train_flags(f"s{seed}", f"--SEED={seed}", "--MAX_EPOCH=3", "--BS=16")).code == 0
        assert run(place, "--RUN=val", f"--VERSION=s{seed}", "--SCORES").code == 0
    paths = [place.folder / f"logs/ckpts/result_val/result_run_s{seed}.json" for seed in range(3)]
    single = [read(path, "meta.json")["summary"]["accuracy"] for path in paths]
    together = combine(paths, tmp_path / "three.json").summary["accuracy"]
    assert together >= np.mean(single), (single, together)


def replaced(path, kind, values):
    """Write an array of a result anew, with its hash in the provenance, as a stranger could."""
    array = path.with_suffix(f".{kind}.npy")
    np.save(array, values)
    meta = read(path, "meta.json")
    meta["files"][array.name] = hashlib.sha256(array.read_bytes()).hexdigest()
    path.with_suffix(".meta.json").write_text(json.dumps(meta))


ODD = {
    "NaN": lambda scores: np.full_like(scores, np.nan),
    "infinite": lambda scores: np.full_like(scores, np.inf),
    "dates": lambda scores: np.zeros(scores.shape, "M8[s]"),
    "text": lambda scores: np.full(scores.shape, "x"),
    "records": lambda scores: np.zeros(scores.shape, [("a", "f4")]),
    "complex": lambda scores: scores.astype(np.complex64),
    "more samples": lambda scores: np.concatenate([scores, scores]),
    "one side": lambda scores: scores[0],
    "fewer columns": lambda scores: scores[..., :3],
}


@pytest.mark.parametrize("task", ["vqa", "vgd", "itm"])
@pytest.mark.parametrize("odd", ODD)
def test_scores_that_no_run_wrote_are_one_line(copy, scored, tmp_path, capsys, task, odd):
    path = copy(f"{task}_one")
    replaced(path, "scores", ODD[odd](arrays(path)))
    assert f"{path.stem}.scores.npy is damaged (it holds" in refused(capsys, path, path, tmp_path / "out.json")


def test_what_is_no_name_of_a_result_is_one_line(tmp_path, capsys):
    assert "result cannot be read: .: Is a directory" in refused(capsys, ".", ".", tmp_path / "out.json")


def test_scores_in_columns_are_the_same_scores(copy, scored, tmp_path):
    path = copy("itm_one")
    replaced(path, "scores", np.asfortranarray(arrays(path)))
    combine([path, path], tmp_path / "out.json")
    assert arrays(tmp_path / "out.json") == pytest.approx(arrays(path), abs=1e-4)


@pytest.mark.parametrize("answers", [np.arange(3), np.array(["a", "b"]), np.array(["a"] * 4000)])
def test_other_answers_than_scores_are_one_line(copy, tmp_path, capsys, answers):
    path = copy("vqa_one")
    replaced(path, "answers", answers)
    assert ".npy is damaged (it holds" in refused(capsys, path, path, tmp_path / "out.json")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("config", "task"), "zz", "unknown task 'zz'"),
        (("config", "data", "metric"), "zz", "data.metric 'zz' is unknown"),
        (("genotype",), {"enc": [["zz"]], "dec": [["gelu"]]}, "unknown operation 'zz'"),
    ],
)
def test_a_provenance_that_no_run_wrote_is_named(copy, tmp_path, capsys, keys, value, message):
    path = copy("vqa_one")
    part = meta = read(path, "meta.json")
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.with_suffix(".meta.json").write_text(json.dumps(meta))
    line = refused(capsys, path, path, tmp_path / "out.json")
    assert f"{path.with_suffix('.meta.json')}: " in line and message in line
