import json
import math
import os
import subprocess
import sys

import pytest
from matplotlib.colors import to_hex
from msgspec.structs import replace

from mmnas.__main__ import main
from mmnas.genotype import Genotype
from mmnas.search.drawing import color_of
from mmnas.search.history import Scored, SearchEpoch, SearchHistory, read_history, write_history
from mmnas.search.picture import draw_search
from mmnas.search.progress_picture import draw_comparison
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


def with_results():
    """The history with costs, and two genotypes that were scored in the end."""
    whole = history()
    costs = [
        replace(each, parameters=7, multiply_adds=cost * 10**6)
        for each, cost in zip(whole.epochs, (40, 40, 30), strict=True)
    ]
    rows = [(("self_att_64",), ("feed_forward",), 0.5, 30), (("feed_forward",), ("guided_att_64",), 0.625, 50)]
    scored = [Scored(Genotype((e,), (("self_att_64",), d)), loss, 7, cost * 10**6) for e, d, loss, cost in rows]
    return SearchHistory(CANDIDATES, costs, scored)


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


def panel(figure, title):
    return next(axes for axes in panels(figure) if axes.get_title(loc="left").startswith(title))


def test_a_panel_per_block_and_the_loss_beneath():
    figure = draw_search(history(epochs=40, enc=12, dec=9), "search $a$_b")
    *blocks, genotypes, loss, entropy, cost = panels(figure)
    assert len(blocks) == 12 + 18
    assert [axes.get_title() for axes in blocks[11:14]] == ["11  SA", "0  SA", "1  FFN"]
    curve = loss.get_lines()[0]
    assert list(curve.get_xdata()) == list(range(1, 41)) and curve.get_ydata()[3] == 2.5
    assert loss.get_title(loc="left") == "loss of the weight steps"


def test_a_line_per_candidate_and_the_chosen_one_marked():
    block = panels(draw_search(history(), ""))[2]
    lines = [line for line in block.get_lines() if len(line.get_xdata()) == 3]
    assert [line.get_color() for line in lines] == [color_of(name) for name in CANDIDATES["dec"]]
    assert list(lines[3].get_ydata()) == [0.25, 0.25, 0.75]
    dots = [line.get_markersize() for line in lines]
    assert all(line.get_marker() == "o" and line.get_markevery() == [-1] for line in lines)  # at the end alone
    assert dots.index(max(dots)) == 3 and sorted(dots)[-2] < max(dots)
    assert lines[3].get_linewidth() > lines[0].get_linewidth()


@pytest.mark.parametrize("epochs, lines", [(3, [2]), (1, [])])
def test_the_begin_of_architecture_steps_is_dotted(epochs, lines):
    loss = panel(draw_search(history(epochs), ""), "loss")
    assert [line.get_xdata()[0] for line in loss.get_lines() if line.get_linestyle() == ":"] == lines
    assert ("dotted" in loss.get_xlabel()) == bool(lines)


def test_entropy_and_cost_are_drawn_over_the_epochs():
    """The mean of 0.811, 0.5 and 0.531; a uniform choice before."""
    figure = draw_search(with_results(), "")
    entropy, cost = (panel(figure, title).get_lines()[0] for title in ("entropy", "multiply-adds"))
    assert list(entropy.get_ydata()) == pytest.approx([1, 1, 0.614], abs=1e-3)
    assert list(cost.get_ydata()) == [40, 40, 30]
    assert all(math.isnan(y) for y in panel(draw_search(history(), ""), "multiply-adds").get_lines()[0].get_ydata())


def test_the_genotype_is_drawn_over_the_epochs():
    """Every block in its color: the first candidate among equals, then what `LAST` prefers."""
    (image,) = panel(draw_search(history(), ""), "genotype").get_images()
    colors = image.get_array()
    assert colors.shape == (3, 3, 3)  # blocks, epochs, rgb
    assert to_hex(colors[1, 0]) == to_hex(colors[1, 2]) == color_of("self_att_64")
    assert to_hex(colors[2, 1]) == color_of("self_att_64") and to_hex(colors[2, 2]) == color_of("feed_forward")


def test_what_was_scored_is_drawn_by_cost_and_the_best_marked():
    axes = panel(draw_search(with_results(), ""), "loss of scored")
    assert axes.collections[0].get_offsets().tolist() == [[30, 0.5], [50, 0.625]]
    (mark,) = axes.get_lines()
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([30], [0.5])


def test_the_table_tells_what_was_scored_and_what_it_costs(capsys, logs):
    write_history(logs / "log" / "search_mine.json", with_results())
    assert main(["plot-search", "mine", "--logs", str(logs)]) == 0
    *_, cost, _, heading, first, second, _, picture = capsys.readouterr().out.splitlines()
    assert cost == "blocks: 7 parameters, 30000000 multiply-adds"
    assert heading.startswith("scored by the supernet, the best first")
    assert first.split() == ["0.5000", "30000000", "SA", "|", "SA", "FFN"]
    assert second.split() == ["0.6250", "50000000", "FFN", "|", "SA", "GA"]


def test_a_collapse_is_told(capsys, logs):
    undecided, decided = ({stream: [row] * len(LAST[stream]) for stream, row in rows.items()} for rows in (
        {"enc": [0.5, 0.5], "dec": [0.25] * 4}, {"enc": [1.0, 0.0], "dec": [1.0, 0.0, 0.0, 0.0]}))  # fmt: skip
    epochs = [epoch(1, undecided), SearchEpoch(2, 10.0, 5, 1, 1, decided)]
    write_history(logs / "log" / "search_mine.json", SearchHistory(CANDIDATES, epochs))
    assert main(["plot-search", "mine", "--logs", str(logs)]) == 0
    assert "warning: the genotype was nearly decided before the loss had fallen" in capsys.readouterr().out


def test_several_searches_are_compared_in_one_picture(capsys, logs):
    write_history(logs / "log" / "search_other.json", with_results())
    assert main(["plot-search", "mine", "other", "--logs", str(logs)]) == 0
    heading, mine, other, *_ = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["search", "epochs", "loss", "entropy"]
    assert mine.split() == ["mine", "3", "3.333", "0.614", "0", "SA", "|", "SA", "FFN"]  # the most probable one
    assert other.split() == ["other", "3", "3.333", "0.614", "30", "SA", "|", "SA", "FFN"]  # the best scored one
    png_size(logs / "log" / "search_comparison.png")
    figure = draw_comparison({"a": history(), "$b$": with_results()})
    assert [
        axes.get_title(loc="left").split()[0] for axes in panels(figure)
    ] == "loss entropy, multiply-adds loss".split()
    one, two, *_ = panels(figure)[0].get_lines()
    assert one.get_color() != two.get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "$b$"]


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
