"""`mmnas web`: answers over HTTP to this machine's own page alone; and the page in a headless Chromium."""

import json
import threading
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image

import mmnas
from mmnas.__main__ import main
from mmnas.data.features import read_npz
from mmnas.predict.inputs import Inputs
from mmnas.predict.web import LARGEST, Server
from tests.predict.browser import PROGRAM, Browser


@pytest.fixture(scope="module")
def image(world):
    """A picture of the demo world, and its features."""
    path = sorted((world / "images" / "val2014").iterdir())[0]
    return path, world / "coco_extract" / "val2014" / f"{path.stem}.jpg.npz"


@pytest.fixture
def server(trained, grounded, image, monkeypatch):
    """A running server with two tabs; its detector finds the demo world's regions."""
    monkeypatch.setattr(Inputs, "_detected", lambda self, pixels, name: read_npz(image[1], 2048))
    models = [mmnas.load(place.checkpoint("base", "epoch2.pkl")) for place in (trained, grounded)]
    with Server(0, models) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield running
        running.shutdown()


def address(server, **query):
    return f"http://127.0.0.1:{server.server_port}/" + (f"?{urllib.parse.urlencode(query)}" if query else "")


def ask(server, content, headers=(), **query):
    request = urllib.request.Request(address(server, **query), content, dict(headers))
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def test_a_question_gets_what_the_model_says_and_a_picture(server, trained, image):
    said = ask(server, image[0].read_bytes(), texts="what color is the ball\n\n how many rings ", name="a.jpg")
    model = mmnas.load(trained.checkpoint("base", "epoch2.pkl"))
    expected = model.predict(image[1], ["what color is the ball", "how many rings"])
    assert [each["said"]["question"] for each in said] == ["what color is the ball", "how many rings"]
    for each, prediction in zip(said, expected, strict=True):
        assert each["said"]["answers"] == json.loads(json.dumps(prediction.record()["answers"]))
        assert each["picture"].startswith("data:image/png;base64,") and each["said"]["image"] == "a.jpg"


def test_each_checkpoint_has_its_tab(server, image):
    (said,) = ask(server, image[0].read_bytes(), texts="the red ball", tab="1")
    assert set(said["said"]["box"]) == {"xmin", "ymin", "xmax", "ymax"}
    page = urllib.request.urlopen(address(server)).read().decode()
    assert "base (vqa)" in page and "base (vgd)" in page and "http://" not in page and "https://" not in page


@pytest.mark.parametrize(
    ("content", "texts", "message"),
    [
        (b"no image", "what", "the image: no image in one of the formats"),
        (b"", "what", "the image: no image in one of the formats"),
        (None, "?!", "?!: the text has no words"),
    ],
)
def test_a_mistake_is_one_line(content, texts, message, server, image):
    (said,) = ask(server, image[0].read_bytes() if content is None else content, texts=texts)
    assert said["error"].startswith(message) and "\n" not in said["error"] and "/tmp" not in said["error"]


def test_what_a_detector_cannot_do_is_one_line(server, image, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "cache")

    monkeypatch.setattr(Inputs, "_detected", full)
    (said,) = ask(server, image[0].read_bytes(), texts="what")
    assert "No space left on device" in said["error"]


@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ({"Host": "evil.example"}, {}, 403),
        ({"Host": "[::1"}, {}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, {}, 403),
        ({"Sec-Fetch-Site": "same-site"}, {}, 403),
        ({"Content-Length": str(LARGEST + 1)}, {}, 413),
        ({"Content-Length": "9" * 5000}, {}, 413),
        ({}, {"tab": "2"}, 404),
        ({}, {"tab": "-1"}, 404),
    ],
)
def test_what_the_page_does_not_ask_is_refused(headers, query, code, server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(server, b"x", headers, texts="what", **query)
    assert caught.value.code == code


def test_only_this_machine_is_served(server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{address(server)}../../etc/passwd")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ckpt=absent.pkl"], "checkpoint not found: absent.pkl"),
        (["--ckpt=absent.pkl", "--port=70000"], "--port=70000 must be from 0 to 65535"),
        (["--ckpt=absent.pkl", "--device=tpu"], "--device=tpu"),
    ],
)
def test_a_mistake_in_a_flag_is_one_line(flags, message, capsys):
    assert main(["web", "--detector=absent", *flags]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


def test_a_taken_port_is_one_line(server, trained, tmp_path, capsys):
    (tmp_path / "detector").touch()
    path = trained.checkpoint("base", "epoch2.pkl")
    flags = [f"--ckpt={path}", f"--detector={tmp_path}/detector", f"--port={server.server_port}"]
    assert main(["web", *flags]) == 2
    assert "in use" in capsys.readouterr().err


@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
def test_the_page_in_a_browser(server, image, tmp_path):
    with Browser() as browser:
        browser.open(address(server))
        assert browser.run("document.querySelector('#tabs [aria-selected=true]').textContent") == "base (vqa)"
        browser.choose("#image", image[0])
        browser.wait("document.querySelector('#preview').naturalWidth > 0")
        browser.run("texts.value = 'what color is the ball\\n?'; ask.click()")
        said = browser.wait("document.querySelector('#answers figcaption')?.textContent")
        (expected,) = ask(server, image[0].read_bytes(), texts="what color is the ball")
        answers = expected["said"]["answers"]
        assert browser.run("document.querySelector('#answers figure b').textContent") == "what color is the ball"
        assert said == ", ".join(f"{each['answer']} {each['score']:.2f}" for each in answers)
        assert browser.run("document.querySelector('#answers .error').textContent") == "?: the text has no words"
        browser.wait("document.querySelector('#answers img').naturalWidth > 300")
        browser.run("tabs.lastChild.click(); texts.value = 'the red ball'; ask.click()")
        assert browser.wait("document.querySelector('#answers figcaption')?.textContent").startswith("score 0.")
        browser.run("fetch = () => Promise.reject(new Error('<b>gone</b>')); ask.click()")
        assert browser.wait("document.querySelector('#answers .error')?.textContent") == "No answer: <b>gone</b>."
        for width in (1200, 400):
            browser.screenshot(tmp_path / "page.png", width, 800)
            assert np.asarray(Image.open(tmp_path / "page.png")).std() > 5
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
