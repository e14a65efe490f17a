"""`predict` says what `--RUN=val` wrote, to 1e-6: one pair at a time, and many in a batch."""

import json

import numpy as np
import pytest
import torch

import mmnas
from mmnas.run.cli import main
from mmnas.tasks.vqa import VQATask
from tests.conftest import Workplace

CLOSE = 1e-6


@pytest.fixture
def ask(world):
    """Ask about images of val by their numbers: all at once, and some of them alone, which must be the same."""

    def asked(source, folder, numbers, texts):
        model = mmnas.load(source.checkpoint("base", "epoch2.pkl"))
        files = {int(path.name.split(".")[0].split("_")[-1]): path for path in (world / folder).glob("*.npz")}
        paths = [files[number] for number in numbers]
        together = model.predict(paths, texts, top=10**6)
        for path, text, one in list(zip(paths, texts, together, strict=True))[::17]:
            (alone,) = model.predict(path, text, top=10**6)
            compare(one, alone)
        return model, together

    def compare(one, other):
        for name in ("answers", "score", "box"):
            if hasattr(one, name):
                values = [getattr(each, name) for each in (one, other)]
                if name == "answers":
                    values = [[score for _, score in sorted(each)] for each in values]
                np.testing.assert_allclose(*values, rtol=CLOSE, atol=CLOSE)

    return asked


def test_answers(ask, trained, scored, world, monkeypatch, tmp_path):
    """The result rounds logits to float16, so they are taken from the scoring itself."""
    kept, original = {}, VQATask.predict

    def predict(self, model, batch):
        def recording(batch):
            logits = model(batch)
            kept.update(zip(batch["index"].tolist(), logits, strict=True))
            return logits

        return original(self, recording, batch)

    monkeypatch.setattr(VQATask, "predict", predict)
    monkeypatch.chdir(tmp_path)
    flags = ["--RUN=val", f"--CKPT_PATH={trained.checkpoint('base', 'epoch2.pkl')}", "--VERSION=same", "--GPU=cpu"]
    assert main(VQATask, [*flags, *Workplace(tmp_path, world).machine(flags)]) == 0
    questions = json.loads((world / "vqa/v2_OpenEnded_mscoco_val2014_questions.json").read_text())["questions"]
    assert len(kept) == len(questions)
    numbers, texts = ([each[key] for each in questions] for key in ("image_id", "question"))
    model, said = ask(trained, "coco_extract/val2014", numbers, texts)
    for index, one in enumerate(said):
        probabilities = torch.sigmoid(kept[index].double()).tolist()
        expected = dict(zip(model.vocabularies["answers"], probabilities, strict=True))
        assert len(one.answers) == len(expected)
        assert all(score == pytest.approx(expected[answer], abs=CLOSE) for answer, score in one.answers)


def test_boxes(ask, grounded, scored):
    """A side of 640 pixels is known to 6e-5 in float32, so 1e-6 is meant of the image's sides."""
    rows = json.loads(scored.path("vgd_one").read_text())
    texts = [" ".join(row["tokens"]) for row in rows]
    _, said = ask(grounded, "vgd_coco/fix100/refcoco_unc", [row["image_id"] for row in rows], texts)
    for row, one in zip(rows, said, strict=True):
        np.testing.assert_allclose(one.box, row["box"], rtol=0, atol=CLOSE * max(one.regions.image_size))
        assert one.score == pytest.approx(row["score"], abs=CLOSE)


def test_matches(ask, matched, scored, world):
    """Every caption with every image."""
    logits = np.load(scored.path("itm_one").with_suffix(".scores.npy"))
    rows = json.loads(scored.path("itm_one").read_text())
    images = [row["image_id"] for row in rows if "text" not in row]
    captions = [row["text"] for row in rows if "text" in row]
    assert logits.shape == (len(images), len(captions))
    numbers = [number for number in images for _ in captions]
    _, said = ask(matched, "flickr_rois_resnet101_fix36", numbers, captions * len(images))
    expected = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose([one.score for one in said], expected.ravel(), atol=CLOSE, rtol=0)
