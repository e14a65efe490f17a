"""Image-text matching from the command line: train, val, test, and what each leaves on the disk."""

import json
import signal

import numpy as np
import pytest
import torch

import mmnas
from mmnas.batch import collate
from mmnas.config import load_config
from mmnas.data.scan_precomp import read_split
from mmnas.data.sources import matching_features
from mmnas.demo.demos import demo
from mmnas.engine.checkpoint import load_checkpoint
from mmnas.engine.distributed import Group, launch
from mmnas.engine.evaluator import tools_of
from mmnas.genotype import Genotype
from mmnas.metrics.retrieval import folds, mean_figures, retrieval_figures
from mmnas.models.pair_scorer import PairScorer
from mmnas.models.published import our_name
from mmnas.tasks import hard_negatives
from mmnas.tasks.itm import ITMTask
from tests.conftest import GENOTYPE, ROOT, Workplace


@pytest.fixture
def place(tmp_path, world):
    return Workplace(tmp_path, world, "itm")


def base(matched: Workplace, name: str = "epoch2.pkl") -> str:
    return f"--CKPT_PATH={matched.checkpoint('base', name)}"


def hard(place: Workplace) -> list[str]:
    """Make a run's settings mine negatives from the first epoch on."""
    path = place.folder / "small.yml"
    path.write_text(path.read_text().replace("random_negative_epochs: 1", "random_negative_epochs: 0"))
    return ["--BS=8"]


def scores(place: Workplace, version: str, split: str = "test") -> np.ndarray:
    return np.load(place.folder / f"logs/ckpts/result_{split}/result_run_{version}.scores.npy", allow_pickle=False)


def test_training_scores_val_and_leaves_checkpoints(matched):
    assert "val  rsum" in (matched.folder / "logs/log/log_run_base.txt").read_text()
    checkpoint = load_checkpoint(matched.checkpoint("base", "epoch2.pkl"))
    assert checkpoint.history[1]["loss"] < checkpoint.history[0]["loss"]
    assert set(checkpoint.vocabularies) == {"tokens"} and checkpoint.task_state == {}
    data = checkpoint.config["data"]
    assert (data["dataset"], data["protocol"], data["max_tokens"]) == ("flickr", "flickr1k", 50)


def test_test_writes_lists_scores_and_figures(matched, place, run):
    done = run(place, "--RUN=test", base(matched), "--VERSION=mine")
    assert done.code == 0, done.output
    split, matrix = read_split(place.data, "flickr", "test"), scores(place, "mine")
    images, captions = len(split.image_ids), len(split.texts)
    assert matrix.shape == (images, captions) == (12, 60) and matrix.dtype == np.float32
    metrics = place.result("test", "mine", "metrics.json")
    assert {name: metrics[name] for name in ("image_to_text", "text_to_image")} == retrieval_figures(matrix)
    assert f"text R@1     {metrics['image_to_text']['r1']:6.2f}" in done.output
    rows = place.result("test", "mine")
    assert len(rows) == images + captions
    for image, row in enumerate(rows[:images]):
        best = np.argsort(-matrix[image], kind="stable")[:10]
        assert row["image_id"] == split.image_ids[image]
        assert [entry["text"] for entry in row["captions"]] == [split.texts[caption] for caption in best]
        chances = 1 / (1 + np.exp(-matrix[image, best]))
        assert [entry["probability"] for entry in row["captions"]] == pytest.approx(chances.tolist(), abs=1e-6)
    for caption, row in enumerate(rows[images:]):
        best = np.argsort(-matrix[:, caption], kind="stable")[:10]
        assert (row["caption"], row["image_id"]) == (caption, split.image_ids[caption // 5])
        assert [entry["image_id"] for entry in row["images"]] == split.image_ids[best].tolist()
    assert place.result("test", "mine", "meta.json")["summary"]["rsum"] == metrics["rsum"]


def test_val_is_what_training_saw(matched, place, run):
    assert run(place, "--RUN=val", base(matched), "--VERSION=mine").code == 0
    history = load_checkpoint(matched.checkpoint("base", "epoch2.pkl")).history
    assert history[1]["metrics"] == place.result("val", "mine", "meta.json")["summary"]


def test_scores_are_those_of_the_model_on_single_pairs(matched, place, run):
    assert run(place, "--RUN=test", base(matched), "--VERSION=mine").code == 0
    model = mmnas.load(matched.checkpoint("base", "epoch2.pkl"))
    split = read_split(place.data, "flickr", "test")
    source = matching_features(place.data, None, "flickr", 2048)
    chosen = [(0, 3), (11, 59), (4, 17), (4, 0)]
    images = [source[int(split.image_ids[image])] for image, _ in chosen]
    arrays = [[getattr(image, name) for image in images] for name in ("features", "boxes", "image_size")]
    texts = [split.texts[caption] for _, caption in chosen]
    expected = [scores(place, "mine")[pair] for pair in chosen]
    np.testing.assert_allclose(model(texts, *arrays)[:, 0], expected, atol=1e-5)
    probabilities = [each.score for each in model.predict(images, texts)]
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-np.array(expected))), atol=1e-6)


@pytest.mark.slow
def test_two_processes_score_exactly_as_one(matched, place, run):
    flags = ["--RUN=test", base(matched), "--BS=3"]
    assert run(place, *flags, "--VERSION=one").code == 0
    process = place.script(*flags, "--VERSION=two", "--GPU=cpu, cpu")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    for kind in ("json", "metrics.json"):
        assert place.result("test", "two", kind) == place.result("test", "one", kind)
    assert (scores(place, "one") == scores(place, "two")).all()


@pytest.mark.slow
def test_resumed_within_an_epoch_equals_uninterrupted_to_the_bit(place, run):
    flags = ["--KEEP_ALL", "--MAX_EPOCH=3", "--NW=1", *hard(place)]  # epochs of 15 steps
    output, code = place.stop_in_second_epoch("cut", flags, signal.SIGINT)
    assert code == 130, output
    (moment,) = place.checkpoint("cut", "x").parent.glob("*_step*.pkl")
    state = load_checkpoint(moment).task_state["negatives"]
    assert state.shape == (120, 2) and state.unique().numel() > 20
    assert run(place, "--RUN=train", "--VERSION=cut", "--RESUME", "--KEEP_ALL").code == 0
    assert run(place, *place.train_flags("whole", *flags)).code == 0
    cut, whole = (load_checkpoint(place.checkpoint(version, "epoch3.pkl")) for version in ("cut", "whole"))
    assert cut.history == whole.history
    assert all(torch.equal(value, cut.model[name]) for name, value in whole.model.items())


class PlainScorer(PairScorer):
    """Scores by the plain forward of every pair, captions padded to 50 tokens."""

    def images(self, batch):
        return PlainImages(batch)

    def captions(self, tokens):
        return tokens

    def score(self, images, rows, captions):
        names = ("features", "boxes", "image_sizes", "region_mask")
        batch = {name: images.batch[name][rows.flatten()] for name in names}
        tokens = captions.repeat_interleave(rows.shape[1], dim=0)
        batch["tokens"] = torch.nn.functional.pad(tokens, (0, 50 - tokens.shape[1]))
        batch["token_mask"] = (torch.arange(50) < tokens.shape[1]).expand(len(tokens), -1)
        return self.network(batch).view(rows.shape)


class PlainImages:
    def __init__(self, batch):
        self.batch, self.regions = batch, batch["features"]

    def __len__(self):
        return len(self.regions)


def test_negatives_are_those_that_plain_forwards_find(matched):
    """With a trained network: one fresh from its seed scores all pairs nearly the same."""
    loaded = mmnas.load(matched.checkpoint("base", "epoch2.pkl"))
    model, data = loaded.model, loaded.task.training_set()
    with torch.inference_mode():
        found = [
            hard_negatives.hard_negatives(scorer(model), data, tools_of(Group(), 0), 1, 2, 7, 2)
            for scorer in (PairScorer, PlainScorer)
        ]
    ours, plain = found
    assert (ours[:, 1] == plain[:, 1]).all()
    scorer = PlainScorer(model)
    for caption in np.flatnonzero(ours[:, 0] != plain[:, 0]):  # scores that agree to the last digits may swap
        image = scorer.images(collate([data.images[int(caption) // 5]]))
        chosen = [torch.from_numpy(data.tokens[int(pair[caption, 0])].astype(np.int64))[None] for pair in found]
        with torch.inference_mode():
            one, other = (scorer.score(image, torch.zeros(1, 1, dtype=torch.int64), tokens) for tokens in chosen)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def _mine(group, data: str, folder: str) -> int:
    """Draw the negatives of one epoch with this process's share of the images."""
    hard_negatives.UNIT = 5
    overrides = {"paths.data": data, "paths.logs": folder, "model.hidden_size": 64}
    overrides |= {"training.negative_candidates": 7, "training.random_negative_epochs": 0}
    task = ITMTask(load_config("itm", "tiny", split="train", version="x", overrides=overrides))
    task.vocabularies = task.build_vocabularies()
    datasets = [task.training_set()]
    torch.manual_seed(0)
    model = task.build_model(Genotype.from_dict(GENOTYPE), pretrained_words=False).eval()
    with torch.inference_mode():
        task.before_epoch(model, 3, tools_of(group, workers=0), datasets)
    torch.save(task.state(datasets), f"{folder}/{group.size}_{group.rank}.pt")
    return 0


def test_two_processes_find_exactly_the_negatives_of_one(place, tmp_path):
    for devices in ("cpu", "cpu, cpu"):
        assert launch(_mine, devices, str(place.data), str(tmp_path)) == 0
    one, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1_0", "2_0", "2_1"))
    for state in (first, second):
        assert torch.equal(state["negatives"], one["negatives"])


@pytest.mark.parametrize("protocol", ["coco5k", "coco1k"])
def test_coco(place, run, protocol):
    flags = ["--DATASET=coco", "--LOSS=margin", "--PRECISION=bf16", "--MAX_EPOCH=1", f"--PROTOCOL={protocol}"]
    if protocol == "coco1k":
        make_val_fit(place)
    assert run(place, *place.train_flags("coco", *flags)).code == 0
    done = run(place, "--RUN=test", "--VERSION=coco", "--PROTOCOL=coco5k")
    assert done.code == 0, done.output
    whole = scores(place, "coco")
    metrics = place.result("test", "coco", "metrics.json")
    assert metrics["protocol"] == "coco5k" and np.isfinite(whole).all()
    assert run(place, "--RUN=test", "--VERSION=coco", "--PROTOCOL=coco1k").code == 0
    parts, metrics = scores(place, "coco"), place.result("test", "coco", "metrics.json")
    inside = np.zeros(whole.shape, dtype=bool)
    for fold in folds(len(whole), 5):
        inside[fold, fold.start * 5 : fold.stop * 5] = True
    assert np.isnan(parts[~inside]).all()
    np.testing.assert_allclose(parts[inside], whole[inside], atol=1e-5)
    blocks = [parts[fold, fold.start * 5 : fold.stop * 5] for fold in folds(len(whole), 5)]
    expected = mean_figures([retrieval_figures(block) for block in blocks])
    assert {name: metrics[name] for name in expected} == expected


def make_val_fit(place: Workplace) -> None:
    """Give the world's small dev split of COCO the five images that five folds need."""
    folder = place.folder / "data"
    folder.mkdir()
    for path in place.data.iterdir():
        if path.name != "itm":
            (folder / path.name).symlink_to(path)
    (folder / "itm" / "coco_precomp").mkdir(parents=True)
    for path in (place.data / "itm" / "coco_precomp").iterdir():
        source = place.data / "itm" / "coco_precomp" / path.name.replace("dev_", "testall_")
        (folder / "itm" / "coco_precomp" / path.name).write_bytes(source.read_bytes())
    place.data = folder


def test_accumulation_takes_the_same_steps(place, run):
    assert run(place, *place.train_flags("parts", "--MAX_EPOCH=1", "--ACCU=3")).code == 0
    assert run(place, *place.train_flags("whole", "--MAX_EPOCH=1")).code == 0
    parts, whole = (load_checkpoint(place.checkpoint(name, "epoch1.pkl")) for name in ("parts", "whole"))
    assert parts.history[0]["loss"] == pytest.approx(whole.history[0]["loss"], rel=1e-4)


def test_released_weights_score(place, run):
    """A released checkpoint that fits the demo world: a tiny network under its published names."""
    genotype = ROOT / "logs/ckpts/arch/train_itm.json"
    flags = ["--MODEL=tiny", f"--CFG={place.folder}/small.yml", f"--GENO_PATH={genotype}", "--GPU=cpu"]
    assert run(place, "--RUN=train", "--MAX_EPOCH=1", "--VERSION=own", *flags).code == 0
    own = load_checkpoint(place.checkpoint("own", "epoch1.pkl")).model
    names = json.loads((ROOT / "tests/parity/itm.json").read_text())["state_dict_shapes"]
    path = place.folder / "epoch13.pkl"
    state = {f"module.{name}": own[our_name(name)] for name in names}
    torch.save({"state_dict": state, "net_optim": {}, "epoch": 13}, path)
    assert run(place, "--RUN=test", f"--CKPT_PATH={path}", *flags, "--VERSION=released").code == 0
    assert run(place, "--RUN=test", "--VERSION=own").code == 0
    assert place.result("test", "released") == place.result("test", "own")


@pytest.mark.slow
def test_demo_ends_with_its_table(tmp_path, monkeypatch, place, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert demo("itm", images=40, flags=[*place.settings, "--MAX_EPOCH=1"]) == 0
    shown = capfd.readouterr().out
    table = shown[shown.index("flickr1k on 12 images") :]
    for row in ("R@1", "captions of an image", "images of a caption", "by chance", "checkpoint: logs", "results:"):
        assert row in table
