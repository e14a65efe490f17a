"""A fourth task is one module, one YAML file and one script: nothing else needs to know of it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import GENOTYPE
from tests.stand_in import ROOT

MODULE = '''
"""A toy: whether the text about an image names a thing."""

import json
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from mmnas.data.features import NpzFolders
from mmnas.data.samples import TextDataset
from mmnas.models.heads import FusionHead
from mmnas.tasks.base import Result, Task
from mmnas.text.vocabulary import Vocabulary


class ToyDataset(TextDataset):
    """Texts with their labels."""

    def __init__(self, rows, regions, words, limits):
        texts = [row["text"].split() for row in rows]
        super().__init__([row["image"] for row in rows], texts, regions, words, limits)
        self.labels = np.array([row["label"] for row in rows], np.float32)

    def __getitem__(self, index):
        return {**super().__getitem__(index), "label": self.labels[index]}


class ToyTask(Task):
    """Texts about images, scored by accuracy."""

    name = "toy"
    splits = ("train",)
    headline = "accuracy"
    flags = {"--LOSS": "training.loss"}
    choices = {"training.loss": ("bce", "mse")}

    def _read(self, split):
        return json.loads(Path(self.config.paths.data, f"toy_{split}.json").read_text())

    def build_vocabularies(self):
        texts = [row["text"].split() for row in self._read("train")]
        return {"tokens": list(Vocabulary.from_token_lists(texts).words)}

    def open_features(self):
        return NpzFolders([Path(self.config.paths.features)], self.config.model.feature_size)

    def _dataset(self, split):
        rows = self._read(split)
        regions = self.require_features([row["image"] for row in rows], split)
        return ToyDataset(rows, regions, self.words, self.config.data)

    def training_set(self):
        return self._dataset("train")

    def evaluation_set(self, split):
        return self._dataset(split)

    def build_head(self, **sizes):
        return FusionHead(outputs=1, **sizes)

    def loss(self, model, batch):
        logits = model(batch)[:, 0].float()
        return {"total": F.binary_cross_entropy_with_logits(logits, batch["label"], reduction="sum")}

    def predict(self, model, batch):
        answers = (model(batch)[:, 0] > 0).tolist()
        return [{"index": i, "answer": a} for i, a in zip(batch["index"].tolist(), answers, strict=True)]

    def score(self, predictions, dataset):
        right = [entry["answer"] == bool(dataset.labels[entry["index"]]) for entry in predictions]
        figures = {"accuracy": 100 * sum(right) / len(right)}
        return Result(predictions, figures, figures)

    def check(self, report, full):
        images = {split: [row["image"] for row in self._read(split)] for split in ("train", "val")}
        report.features(self.open_features(), images, ("train", "val"), full, (1, 100))
'''
YAML = """
small:
  model: {hidden_size: 64, pooling_size: 32, pooled_size: 64, relation_size: 16}
  training: {base_lr: 1.0e-3, epochs: 1, batch_size: 8, workers: 0, loss: bce}
"""
SCRIPT = """
import sys

from mmnas.run.cli import main
from mmnas.tasks.toy import ToyTask

if __name__ == "__main__":
    sys.exit(main(ToyTask))
"""


@pytest.fixture
def toy(tmp_path, world):
    """A copy of the package with exactly three new files, some data, and a function that runs commands there."""
    shutil.copytree(ROOT / "mmnas", tmp_path / "mmnas", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in (("mmnas/tasks/toy.py", MODULE), ("mmnas/configs/toy.yml", YAML), ("train_toy.py", SCRIPT)):
        (tmp_path / name).write_text(text)
    features = world / "coco_extract" / "train2014"
    images = sorted(int(path.name.split(".")[0].split("_")[-1]) for path in features.glob("*.npz"))
    for split, chosen in (("train", images[:8]), ("val", images[8:12]), ("test", images[12:16])):
        texts = (("a red ball", 1), ("what color", 0))
        rows = [{"image": image, "text": text, "label": label} for image in chosen for text, label in texts]
        (tmp_path / f"toy_{split}.json").write_text(json.dumps(rows))
    (tmp_path / "genotype.json").write_text(json.dumps({"epoch0": GENOTYPE}))
    data = ["--DATA_PATH=.", f"--FEAT_PATH={features}", f"--WORD_VECTORS={world / 'word_vectors'}"]

    def run(*command):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *command, *data], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_fourth_task_is_checked_trained_and_scored(toy, tmp_path):
    code, output = toy("-m", "mmnas", "check-data", "toy")
    assert code == 0 and "8 images of train, 0 without features" in output, output
    settings = ("--VERSION=mine", "--GPU=cpu")
    code, output = toy("train_toy.py", "--RUN=train", "--GENO_PATH=genotype.json", "--LOSS=bce", *settings)
    assert code == 0 and "epoch 1: loss" in output and "val  accuracy" in output, output
    code, output = toy("train_toy.py", "--RUN=test", *settings)
    assert code == 0, output
    rows = json.loads((tmp_path / "logs/ckpts/result_test/result_run_mine.json").read_text())
    assert [row["index"] for row in rows] == list(range(8))


def test_its_own_flag_and_name_are_known(toy):
    code, output = toy("train_toy.py", "--RUN=train", "--LOSS=msee")
    assert code == 2 and "--LOSS=msee is unknown; did you mean mse" in output, output
    code, output = toy("-m", "mmnas", "check-data", "toi")
    assert code == 2 and "toy" in output, output
