"""A report is one file that needs nothing else, holds the figures of its results, and can be opened and printed."""

import html.parser
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from mmnas.__main__ import main
from mmnas.predict.ensemble import combine
from mmnas.predict.page import curves, fill
from mmnas.predict.report import write_report
from mmnas.predict.report_split import describe

BROWSERS = (os.environ.get("BROWSER_FOR_TESTS", ""), "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
in_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium; install one, or name it by $BROWSER_FOR_TESTS"
)
VOID = {"meta", "img", "rect"}


class Page(html.parser.HTMLParser):
    """Checks that elements nest, and collects names, attributes and texts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], set(), [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "pre"):
            self.texts.append(data.strip())


@pytest.fixture(scope="module")
def reports(scored, tmp_path_factory):
    """A report on two versions of each task, with pictures."""
    folder = tmp_path_factory.mktemp("reports")
    for task in ("vqa", "vgd", "itm"):
        versions = [f"{task}_one", f"{task}_two"]
        write_report(versions, folder / f"{task}.html", scored.logs, str(scored.world / "images"))
    return folder


@pytest.fixture(scope="module", params=["vqa", "vgd", "itm"])
def report(request, reports):
    """A report, and its task."""
    return reports / f"{request.param}.html", request.param


def test_it_is_one_valid_file_without_scripts_or_network(report):
    page = Page(report[0].read_text(encoding="utf-8"))
    assert not page.tags & {"script", "link", "iframe", "object", "base", "form"}
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith("data:image/")
    text = re.sub(r"data:image/[^\"]*", "", report[0].read_text(encoding="utf-8"))
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(" not in text


def test_all_figures_of_both_versions_are_there(report, scored):
    path, task = report
    texts = Page(path.read_text(encoding="utf-8")).texts
    for version in (f"{task}_one", f"{task}_two"):
        summary = json.loads(scored.path(version).with_suffix(".meta.json").read_text())["summary"]
        for name, value in summary.items():
            if name != "oracle":  # which says nothing about the version
                assert f"{value:.2f}" in texts, name
    for heading in ("Split val", "Most frequent confusions", "Worst", "Best", "Architecture", "Provenance"):
        assert heading in texts
    assert any("permutation test" in text or "the same on every sample" in text for text in texts)


def test_test_splits_are_reported_where_they_have_references(reports):
    titles = {task: Page((reports / f"{task}.html").read_text()).texts for task in ("vqa", "vgd", "itm")}
    assert "Split test" not in titles["vqa"] and "Split test" in titles["itm"]
    assert {"Split testA", "Split testB"} <= set(titles["vgd"])


def test_examples_have_pictures_and_boxes(reports, scored):
    text = (reports / "vgd.html").read_text()
    assert text.count("data:image/jpeg") >= 12 and text.count('class="reference"') >= 12
    write_report(["vgd_one"], reports / "bare.html", scored.logs)
    assert "data:image/jpeg" not in (reports / "bare.html").read_text()


def test_curves_and_missing_results(trained, reports, monkeypatch, capsys):
    monkeypatch.chdir(trained.folder)
    assert main(["report", "base", f"--out={reports}/new.html", f"--DATA_PATH={trained.data}"]) == 0
    page = Page((reports / "new.html").read_text())
    wanted = "base has no result on val; make it by: mmnas train vqa --RUN=val --VERSION=base"
    assert wanted in page.texts and "Training" in page.texts
    assert {"loss", "overall on val"} <= {value for name, value in page.attributes if name == "alt"}


def test_a_long_training_is_drawn_by_some_of_its_epochs():
    long = curves("loss", {0: [(epoch, 1 / epoch) for epoch in range(1, 200_001)]})
    assert len(long) < 40 * len(curves("loss", {0: [(1, 1.0), (2, 0.5)]}))


def test_a_version_may_be_in_other_logs(scored, reports, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").symlink_to(scored.logs)
    write_report(["vqa_one", "other/vqa_one"], reports / "two.html", scored.logs)
    texts = Page((reports / "two.html").read_text()).texts
    assert "other/vqa_one and vqa_one do not differ: both score the same on every sample." in texts


def test_an_ensemble_is_a_version_like_any_other(scored, reports):
    out = scored.path("vqa_both")
    combine([scored.path("vqa_one"), scored.path("vqa_two")], out)
    write_report(["vqa_one", "vqa_both"], reports / "both.html", scored.logs)
    texts = Page((reports / "both.html").read_text()).texts
    value = json.loads(out.with_suffix(".meta.json").read_text())["summary"]["overall"]
    assert f"{value:.2f}" in texts


@pytest.mark.parametrize(
    ("difference", "limits", "p", "words"),
    [
        (np.zeros(4), (0.0, 0.0), 1.0, "b and a do not differ: both score the same on every sample."),
        (np.array([1.0, -0.5]), (-0.9, 1.4), 0.6, "b and a do not differ significantly: accuracy +0.25 (95 % "),
        (
            np.array([5.0, 7.0]),
            (4.0, 8.0),
            0.001,
            "b is better than a: accuracy +6.00 (95 % interval +4.00 to +8.00",
        ),
        (np.array([-5.0, -7.0]), (-8.0, -4.0), 0.001, "b is worse than a: accuracy -6.00"),
        (np.array([-5.0, -7.0]), None, 0.5, "b and a do not differ significantly: accuracy -6.00 (p = 0.5"),
    ],
)
def test_the_difference_in_words(difference, limits, p, words):
    assert describe("b", "a", "accuracy", difference, limits, p).startswith(words)


def test_texts_of_strangers_are_text():
    text = '<script>alert("x")</script>\x1b[31m\u202e$version'
    filled = fill("reference", text=[text])
    assert "<script" not in filled and "&lt;script&gt;" in filled
    assert "\x1b" not in filled and "\u202e" not in filled and "$version" in filled


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nobody"], "no result and no checkpoint of nobody"),
        (["vqa_one", "vgd_one"], "vgd_one is of vgd, vqa_one of vqa"),
        (["vqa_one", "vqa_one"], "name different versions"),
        (["vqa_one", "--images=/nowhere"], "--images=/nowhere is not a folder"),
    ],
)
def test_mistakes_are_one_line(scored, tmp_path, capsys, monkeypatch, arguments, line):
    monkeypatch.chdir(scored.folder)
    assert main(["report", *arguments, f"--out={tmp_path}/new.html"]) == 2
    assert line in capsys.readouterr().err and not (tmp_path / "new.html").exists()


def test_two_images_of_one_number_are_named(scored, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(scored.folder)
    for name in ("COCO_train2014_000000000009.jpg", "9.png"):
        (tmp_path / name).touch()
    assert main(["report", "vqa_one", f"--images={tmp_path}", f"--out={tmp_path}/new.html"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: image 9 is in ") and "9.png" in line and line.count("\n") == 1


def test_letters_that_the_font_lacks_are_no_warnings(recwarn):
    curves("\u6a21\u578b\x1b\u202e", {0: [(1, 1.0), (2, 1e300)]})
    assert not recwarn.list


# In a browser


def in_chromium(page, *flags):
    """Run a browser that reaches no network."""
    common = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={page.parent}/user",
    ]
    command = [BROWSER, *common, "--host-resolver-rules=MAP * ~NOTFOUND", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_it_opens_on_a_phone_and_on_a_desk(report, width):
    path, _ = report
    picture = path.with_name(f"{path.stem}_{width}.png")
    in_chromium(path, f"--screenshot={picture}", f"--window-size={width},1600")
    with Image.open(picture) as image:
        assert image.size == (width, 1600)
        assert len(image.convert("RGB").resize((200, 200)).getcolors(40000)) > 100  # it is not blank


def measured(path):
    """Return how many pictures are broken, and how wide page and tables are on a phone."""
    frame = path.with_name("measuring.html")
    script = (
        "onload = () => { const page = document.querySelector('iframe').contentDocument; document.title = [..."
        "page.images].filter(i => !i.naturalWidth && i.loading != 'lazy').length + ' ' + Math.max(...[..."
        "page.querySelectorAll('html, .scroll')].map(e => e.scrollWidth)); document.body.append(document.title) }"
    )
    page = f'<iframe src="{path.name}" width="390" height="900"></iframe>'
    frame.write_text(f"<body>{page}<script>{script}</script>")
    shown = in_chromium(frame, "--allow-file-access-from-files", "--virtual-time-budget=9000", "--dump-dom").stdout
    return tuple(map(int, re.search(r"<title>(\d+) (\d+)</title>", shown).groups()))


@in_browser
@pytest.mark.slow
def test_nothing_is_wider_than_a_phone_and_all_pictures_load(report):
    broken, width = measured(report[0])
    assert broken == 0 and width <= 390


@in_browser
@pytest.mark.slow
def test_long_words_make_nothing_wider_than_a_phone(scored, reports, tmp_path):
    """Three versions, one of a long name, with endless words as questions, answers and types of questions."""
    (tmp_path / ("x" * 99)).symlink_to(scored.logs)
    data = tmp_path / "data"
    shutil.copytree(scored.world / "vqa", data / "vqa")
    for path in (data / "vqa").glob("*_val2014_*.json"):
        text = re.sub(
            r'"(question|multiple_choice_answer|question_type)": "', r"\g<0>" + "w" * 300, path.read_text()
        )
        path.write_text(text)
    versions = ["vqa_one", "vqa_two", str(tmp_path / ("x" * 99) / "vqa_one")]
    write_report(versions, reports / "long.html", scored.logs, data_path=str(data))
    assert "w" * 300 in (reports / "long.html").read_text()
    assert measured(reports / "long.html")[1] <= 390


@in_browser
@pytest.mark.slow
def test_it_can_be_printed(report):
    printed = report[0].with_suffix(".pdf")
    in_chromium(report[0], f"--print-to-pdf={printed}")
    content = printed.read_bytes()
    assert content.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", content)) >= 2
