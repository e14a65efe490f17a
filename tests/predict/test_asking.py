"""`mmnas predict`: what the documents show, the same figures as scoring, and one line for each fault."""

import codecs
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmnas.__main__ import main
from mmnas.data.features import image_id_of
from mmnas.predict.asking import Writer
from tests.stand_in import ROOT

PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/predict.md")]
COMMANDS = sorted({line for page in PAGES for line in re.findall(r"^mmnas predict .*", page, re.MULTILINE)})
FEATURES = {
    "vqa": "coco_extract/val2014",
    "vgd": "vgd_coco/fix100/refcoco_unc",
    "itm": "rois_resnet101_fix36/val2014",
}
FIXTURES = {"question": "trained", "expression": "grounded", "caption": "matched", "input": "trained"}


@pytest.fixture
def ask(monkeypatch, capsys, tmp_path):
    """Ask one model by the command; return exit code, lines of output, and errors."""
    monkeypatch.chdir(tmp_path)

    def asked(source, *words):
        features = f"--features={source.data / FEATURES[source.task]}"
        code = main(["predict", *words, "--ckpt", str(source.checkpoint("base", "epoch2.pkl")), features])
        output, errors = capsys.readouterr()
        return code, [json.loads(line) for line in output.splitlines()], errors

    return asked


def images_of(source):
    """The drawn images whose features the task of `source` has."""
    numbers = sorted(image_id_of(path.name) for path in (source.data / FEATURES[source.task]).glob("*.npz"))
    return [next((source.data / "images").rglob(f"COCO_*{number:012d}.jpg")) for number in numbers[:3]]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_pages(command, request, ask, tmp_path):
    """Each on images of the demo world, with its features in place of a detector."""
    words = shlex.split(command)[2:]
    kind = next(word[2:] for word in words if word[2:] in FIXTURES)
    source = request.getfixturevalue(FIXTURES[kind])
    first, second = images_of(source)[:2]
    (tmp_path / "photo.jpg").symlink_to(first)
    (tmp_path / "photos").mkdir()
    for path in (first, second):
        (tmp_path / "photos" / path.name).symlink_to(path)
    pairs = [
        {"image": str(first), "question": "how many?"},
        {"image": f"photos/{second.name}", "question": "is it red?"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    for flag in ("--ckpt", "--detector"):
        place = words.index(flag)
        del words[place : place + 2]
    words = [str(first) if word == "photo.jpg" else word for word in words]
    code, lines, _ = ask(source, *words)
    assert code == 0
    expected = {"question": 1, "expression": 1, "caption": 4, "input": 2}
    assert len(lines) == expected[kind]
    shown = {"expression": ("box", "best"), "caption": ("images",)}.get(kind, ("answers",))
    assert set(shown) <= set(lines[-1])
    if "--out" in words:
        (picture,) = (tmp_path / "pictures").glob("*.png")
        assert min(Image.open(picture).size) > 100
    if "--top" in words:
        assert len(lines[0]["answers"]) == 1


def test_answers_are_those_of_scoring(ask, trained, scored, world):
    """One by one: the answers that `--RUN=val` gives; probabilities as far as float16 tells them."""
    answers = json.loads(scored.path("vqa_one").read_text())
    logits = np.load(scored.path("vqa_one").with_suffix(".scores.npy"), mmap_mode="r")
    questions = json.loads((world / "vqa/v2_OpenEnded_mscoco_val2014_questions.json").read_text())["questions"]
    assert [each["question_id"] for each in questions] == [row["question_id"] for row in answers]
    for row, scores, question in list(zip(answers, logits, questions, strict=True))[:3]:
        path = world / FEATURES["vqa"] / f"COCO_val2014_{question['image_id']:012d}.jpg.npz"
        code, (line,), _ = ask(trained, str(path), "--question", question["question"])
        assert code == 0 and line["answers"][0]["answer"] == row["answer"]
        best = 1 / (1 + np.exp(-np.sort(scores.astype(float))[::-1][:5]))
        np.testing.assert_allclose([each["score"] for each in line["answers"]], best, atol=2e-3)


def test_boxes_are_those_of_scoring(ask, grounded, scored, world):
    for row in json.loads(scored.path("vgd_one").read_text())[:3]:
        path = next((world / "images").rglob(f"COCO_*{row['image_id']:012d}.jpg"))
        code, (line,), _ = ask(grounded, str(path), "--expression", " ".join(row["tokens"]))
        assert code == 0
        np.testing.assert_allclose(list(line["box"].values()), row["box"], atol=1e-3)
        assert line["score"] == pytest.approx(row["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--question", "how many?"], "name images and one of"),
        (["IMAGE"], "name images and one of"),
        (["IMAGE", "--question", "a", "--caption", "b"], "name images and one of"),
        (["IMAGE", "--caption", "a dog"], "reads --question"),
        (["IMAGE", "--question", "a", "--top", "0"], "--top must be"),
        (["IMAGE", "--question", "a", "--attention"], "needs --out"),
        (["IMAGE", "--question", "a", "--block", "encoder.9", "--out", "o"], "those with some: encoder.0"),
        (["--input", "absent.jsonl"], "absent.jsonl"),
        (["--input", "broken.jsonl"], "broken.jsonl, line 2"),
        (["--input", "other.jsonl"], 'no "question"'),
    ],
)
def test_wrong_words_are_told_in_one_line(ask, trained, tmp_path, words, told):
    (tmp_path / "broken.jsonl").write_text('{"image": "a.jpg", "question": "b"}\n{"image": 3}\n')
    (tmp_path / "other.jsonl").write_text('{"image": "a.jpg", "caption": "b"}\n')
    words = [str(images_of(trained)[0]) if word == "IMAGE" else word for word in words]
    code, lines, errors = ask(trained, *words)
    assert code == 2 and told in errors and not lines and errors.count("\n") == 1


def test_an_answer_imports_nothing_slow(trained):
    """Pillow, msgspec and torch without its compiler are enough; docs/performance.md says what they take."""
    script = "import sys; from mmnas.__main__ import main; main(sys.argv[1:]); print(*sys.modules)"
    path = next((trained.data / FEATURES["vqa"]).glob("*.npz"))
    flags = ["--question", "how many?", "--ckpt", str(trained.checkpoint("base", "epoch2.pkl"))]
    command = [sys.executable, "-c", script, "predict", str(path), *flags]
    answer, modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "answers" in json.loads(answer)
    slow = {"torch._dynamo", "torch._inductor", "torchvision", "sympy", "networkx", "matplotlib", "scipy", "pandas"}
    slow |= {"spacy", "gradio", "tensorboard", "lmdb", "h5py", "jsonschema"}
    assert not slow & set(modules.split())


def test_a_fault_stops_nothing_else(ask, trained, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"no features")
    good = str(images_of(trained)[0])
    code, lines, errors = ask(trained, good, "absent.jpg", "bad.npz", "--question", "how many?", "--question", "?!")
    assert code == 2 and len(lines) == 1 and lines[0]["image"] == good
    faults = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(faults) == 5
    assert any("absent.jpg" in line for line in faults) and any("has no words" in line for line in faults)


def test_images_of_one_name_in_two_folders_are_both_asked(ask, trained, tmp_path):
    image = images_of(trained)[0]
    for name in ("2020", "2021"):
        (tmp_path / "album" / name).mkdir(parents=True)
        (tmp_path / "album" / name / image.name).write_bytes(image.read_bytes())
    code, lines, _ = ask(trained, "album", "--question", "how many?", "--out", "o")
    assert code == 0 and len({line["image"] for line in lines}) == len(list(Path("o").iterdir())) == 2


def test_an_image_that_cannot_be_drawn_stops_nothing_else(ask, trained, matched, tmp_path):
    """Its features are there, so it gets its answer, and a picture without it."""
    first, second = images_of(trained)[:2]
    (tmp_path / first.name).write_bytes(first.read_bytes()[:2000])
    words = ["--question", "how many?", "--question", "is it red?", "--out", "o"]
    code, lines, errors = ask(trained, first.name, f"gone/{second.name}", *words)
    assert code == 2 and len(lines) == 4 and len(list(Path("o").glob("*.png"))) == 4
    broken, gone = errors.splitlines()
    assert broken.startswith(f"error: {first.name}, its picture: ") and gone.startswith(
        f"error: gone/{second.name}, "
    )
    captions = ["a dog " * 20 + end for end in "xy"]
    code, lines, errors = ask(matched, first.name, *(f"--caption={each}" for each in captions), "--out", "m")
    assert code == 2 and len(lines) == 3 and errors.count("\n") == 1
    assert len(list(Path("m").glob("*.png"))) == 3  # long captions that begin alike have a sheet each


def test_attention_is_written_and_drawn(ask, trained, tmp_path):
    image = str(images_of(trained)[0])
    code, (line,), _ = ask(
        trained, image, "--question", "how many?", "--out", "o", "--block", "decoder.0", "--regions"
    )
    assert code == 0 and sum(each["weight"] for each in line["regions"]) == pytest.approx(1, abs=1e-5)
    (path,) = Path("o").glob("*.npz")
    with np.load(path) as file:
        heads, queries, _ = file["decoder.0"].shape
        assert queries == len(file["boxes"]) and heads == 1  # of width 64, as the network
        np.testing.assert_allclose(file["decoder.0"].sum(axis=-1), 1, atol=1e-5)
    assert len(list(Path("o").glob("*decoder.0.png"))) == 1


def test_checkpoints_are_averaged(ask, trained):
    """With a and b the probabilities of two checkpoints: a, their mean, and (a + b + b) / 3."""
    words = [str(images_of(trained)[0]), "--question", "how many?", "--top", "99"]
    first, scores = str(trained.checkpoint("base", "epoch1.pkl")), []
    for more in ([], ["--ckpt", first], ["--ckpt", first, first]):
        _, (line,), _ = ask(trained, *words, *more)
        scores.append({each["answer"]: each["score"] for each in line["answers"]})
    one, mean, weighted = scores
    for answer, score in one.items():
        assert weighted[answer] == pytest.approx((4 * mean[answer] - score) / 3, abs=1e-6)
    assert max(abs(mean[answer] - score) for answer, score in one.items()) > 1e-3


LINE = '{"image": "absent.npz", "question": "what?"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (codecs.BOM_UTF8 + LINE.encode(), "features not found: absent.npz"),
        (LINE.encode("utf-16"), "--input file is UTF-16 text: pairs.jsonl: save it as UTF-8"),
        (LINE.replace("}", ', "question": "who?"}').encode(), "line 1: holds the key 'question' twice: remove one"),
        (LINE.replace("what?", "hi " * 10**6).encode(), "features not found: absent.npz"),
        (None, "--input file cannot be read: pairs.jsonl: not a regular file"),
    ],
)
def test_pairs_are_read_like_any_text(content, message, ask, trained, tmp_path):
    path = tmp_path / "pairs.jsonl"
    os.mkfifo(path) if content is None else path.write_bytes(content)
    code, lines, errors = ask(trained, "--input=pairs.jsonl")
    assert code == 2 and not lines
    assert errors.startswith("error: ") and message in errors and errors.count("\n") == 1 and len(errors) < 2100


def test_answers_and_names_of_strangers_are_printable_json(capsys):
    record = {"image": "a\x1b\u202e\x9b\udcff.jpg", "answer": "café"}
    Writer().say(record)
    Writer().say({"answer": "café"})
    evil, plain = capsys.readouterr().out.splitlines()
    assert evil.isprintable() and json.loads(evil) == record and plain == '{"answer": "café"}'
