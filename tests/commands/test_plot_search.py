import json
import os
import subprocess
import sys

import pytest

from mmnas.__main__ import main
from mmnas.search.drawing import color_of
from mmnas.search.history import SearchEpoch, SearchHistory, read_history, write_history
from mmnas.search.picture import draw_search
from tests.commands.test_show_arch import png_size
from tests.stand_in import ROOT

CANDIDATES = {
    "enc": ["self_att_64", "feed_forward"],
    "dec": ["self_att_64", "rel_self_att_64", "guided_att_64", "feed_forward"],
}
LAST = {"enc": [[0.75, 0.25]], "dec": [[0.5, 0.5, 0.0, 0.0], [0.125, 0.125, 0.0, 0.75]]}


def epoch(number, probabilities, steps=0):
    return SearchEpoch(number, 10.0 / number, steps, 1, 2, probabilities)


def history(epochs=3, **blocks):
    """Uniform up to the last epoch, then as `LAST`; `enc` and `dec` repeat its rows that many times."""
    last = {stream: LAST[stream] * blocks.get(stream, 1) for stream in LAST}
    uniform = {s: [[1 / len(CANDIDATES[s])] * len(CANDIDATES[s])] * len(last[s]) for s in last}
    before = [epoch(number, uniform, steps=10 * (number - 1)) for number in range(1, epochs)]
    return SearchHistory(CANDIDATES, [*before, epoch(epochs, last, steps=10 * (epochs - 1))])


@pytest.fixture
def logs(tmp_path):
    write_history(tmp_path / "logs" / "log" / "search_mine.json", history())
    return tmp_path / "logs"


def test_table_worked_out_by_hand(capsys, logs):
    assert main(["plot-search", "mine", "--logs", str(logs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("epoch 3: loss 3.33333, 20 architecture steps, blocks changed: 1, epochs unchanged: 2")
    assert [line.split() for line in lines[1:]] == [
        [],
        ["encoder", "chosen", "SA", "FFN", "entropy", "margin"],
        ["0", "SA", "0.750", "0.250", "0.811", "0.500"],  # 2 - 0.75 log2(3) bits of 1
        [],
        ["decoder", "chosen", "SA", "RSA", "GA", "FFN", "entropy", "margin"],
        ["0", "SA", "0.500", "0.500", "0.000", "0.000", "0.500", "0.000"],  # 1 bit of 2
        ["1", "FFN", "0.125", "0.125", "0.000", "0.750", "0.531", "0.625"],  # (0.75 + 0.311) bits of 2
        [],
        ["picture:", str(logs / "log" / "search_mine.png")],
    ]
    assert {len(line) for line in lines[2:4]} == {len(lines[2])}


def test_the_picture_lies_beside_the_history(logs):
    assert main(["plot-search", "mine", "--logs", str(logs)]) == 0
    width, height = png_size(logs / "log" / "search_mine.png")
    assert width > 1000 and height > 500
    assert sorted(path.name for path in (logs / "log").iterdir()) == ["search_mine.json", "search_mine.png"]


def test_the_picture_may_lie_elsewhere(logs, tmp_path):
    assert main(["plot-search", "mine", "--logs", str(logs), "--png", str(tmp_path / "a.png")]) == 0
    png_size(tmp_path / "a.png")
    assert not (logs / "log" / "search_mine.png").exists()


def test_no_display_is_needed(logs):
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-m", "mmnas", "plot-search", "mine", "--logs", str(logs)]
    run = subprocess.run(
        command, cwd=ROOT, env={**environment, "MPLBACKEND": "tkagg"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    png_size(logs / "log" / "search_mine.png")


def panels(figure):
    return [axes for axes in figure.get_axes() if axes.get_visible()]


def test_a_panel_per_block_and_the_loss_beneath():
    figure = draw_search(history(epochs=40, enc=12, dec=9), "search $a$_b")
    *blocks, loss = panels(figure)
    assert len(blocks) == 12 + 18
    assert [axes.get_title() for axes in blocks[11:14]] == ["11  SA", "0  SA", "1  FFN"]
    curve = loss.get_lines()[0]
    assert list(curve.get_xdata()) == list(range(1, 41)) and curve.get_ydata()[3] == 2.5
    assert loss.get_title(loc="left") == "loss of the weight steps"


def test_a_line_per_candidate_and_the_chosen_one_marked():
    *_, block, _ = panels(draw_search(history(), ""))
    lines = [line for line in block.get_lines() if len(line.get_xdata()) == 3]
    assert [line.get_color() for line in lines] == [color_of(name) for name in CANDIDATES["dec"]]
    assert list(lines[3].get_ydata()) == [0.25, 0.25, 0.75]
    dots = [line.get_markersize() for line in lines]
    assert all(line.get_marker() == "o" and line.get_markevery() == [-1] for line in lines)  # at the end alone
    assert dots.index(max(dots)) == 3 and sorted(dots)[-2] < max(dots)
    assert lines[3].get_linewidth() > lines[0].get_linewidth()


@pytest.mark.parametrize("epochs, lines", [(3, [2]), (1, [])])
def test_the_begin_of_architecture_steps_is_dotted(epochs, lines):
    loss = panels(draw_search(history(epochs), ""))[-1]
    assert [line.get_xdata()[0] for line in loss.get_lines() if line.get_linestyle() == ":"] == lines
    assert bool(loss.get_title(loc="right")) == bool(lines)


def test_other_search_spaces(logs, capsys):
    names = ["self_att_32", "self_att_64", "self_att_128", "sep_conv_3", "sep_conv_11", "gelu", "none"]
    row = [[0.0] * 6 + [1.0]]
    wide = SearchHistory({"enc": names, "dec": ["guided_att_64"]}, [epoch(1, {"enc": row, "dec": [[1.0]]})])
    write_history(logs / "log" / "search_wide.json", wide)
    assert main(["plot-search", "wide", "--logs", str(logs)]) == 0
    assert "self_att_128  sep_conv_3  sep_conv_11" in capsys.readouterr().out
    png_size(logs / "log" / "search_wide.png")


def test_bad_input_is_told_in_one_line(capsys, logs):
    path = logs / "log" / "search_mine.json"
    entries = json.loads(path.read_text())
    entries["epochs"][1]["loss"] = "low"
    faults = {
        f"{path}: epochs[1].loss must be a number, not 'low'": json.dumps(entries),
        f"not valid JSON: {path}": path.read_text()[:99],
    }
    for message, text in faults.items():
        path.write_text(text)
        assert main(["plot-search", "mine", "--logs", str(logs)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and message in err and err.startswith("error: ") and err.count("\n") == 1
    assert main(["plot-search", "other", "--logs", str(logs)]) == 2
    assert f"not found: {logs / 'log' / 'search_other.json'}" in capsys.readouterr().err
    assert not list((logs / "log").glob("*.png"))


def test_the_history_stays_as_it_is(logs):
    path = logs / "log" / "search_mine.json"
    before = path.read_bytes()
    main(["plot-search", "mine", "--logs", str(logs)])
    assert path.read_bytes() == before and len(read_history(path).epochs) == 3
