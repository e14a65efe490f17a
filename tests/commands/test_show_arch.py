import json
import struct
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from mmnas.__main__ import main
from mmnas.genotype import OPERATIONS, Genotype
from mmnas.search.drawing import LINE_STYLES, color_of, family_title, line_styles, save_png, short_row
from tests.stand_in import ROOT

PUBLISHED = ROOT / "logs" / "ckpts" / "arch"
ONE = {"enc": [["self_att_64"]], "dec": [["guided_att_64", "feed_forward"], ["skip_connect"]]}
VQA_DECODER = "GA GA FFN FFN GA FFN RSA GA FFN GA RSA FFN RSA SA FFN RSA GA FFN"
OTHER = {"enc": [["feed_forward"]], "dec": [["none", "gelu"]]}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"epoch0": OTHER, "epoch7": ONE}))
    return path


def png_size(path):
    """Return width and height from the header; the signature must be PNG's."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR"
    return struct.unpack(">II", head[16:24])


def shown(capsys, *arguments):
    assert main(["show-arch", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments):
    assert main(["show-arch", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_table_worked_out_by_hand(capsys, file):
    """H 128, 3 regions, 2 tokens; squares of 128 are 16384."""
    lines = shown(capsys, file, "--MODEL", "tiny", "--regions", 3, "--tokens", 2)
    assert lines[0] == "found.json, epoch 7: vqa tiny (H 128), 3 regions, 2 tokens"
    assert [line.split() for line in lines[2:9]] == [
        ["stream", "block", "operations", "parameters", "(M)", "multiply-adds", "(M)"],
        # 4 x 16384 and a norm of 256; 2 x 4 x 16384 and 2 x 2 x 2 x 128
        ["encoder", "0", "SA", "0.066", "0.132"],
        # GA as SA; query and merge at 3, key and value at 2, products 2 x 3 x 2 x 128: 165,376. FFN at 3: 393,216
        ["decoder", "0", "GA+FFN", "0.198", "0.559"],
        ["decoder", "1", "skip_connect", "0.000", "0.000"],
        ["encoder", "all", "1", "blocks", "0.066", "0.132"],
        ["decoder", "all", "2", "blocks", "0.198", "0.559"],
        ["both", "all", "3", "blocks", "0.264", "0.691"],
    ]
    assert lines[10].startswith("Blocks only: stems, relation embedding and head are not counted.")
    assert lines[-2:] == ["encoder: SA", "decoder: GA+FFN skip_connect"]


@pytest.mark.parametrize(
    "file, size, decoder, total",
    [
        # 16 attentions of 1,049,600, 4 relation linears of 520, 14 feed-forwards of 2,100,736
        ("train_vqa", "small", VQA_DECODER, "46.206"),
        ("mcan", "small", " ".join(["SA GA FFN"] * 6), "44.102"),  # 18 attentions, 12 feed-forwards
        # 16 attentions of 4,196,352, 4 relation linears of 520, 14 feed-forwards of 8,395,776
        ("train_vqa", "large", VQA_DECODER, "184.685"),
    ],
)
def test_published_architectures(capsys, file, size, decoder, total):
    lines = shown(capsys, PUBLISHED / f"{file}.json", "--MODEL", size)
    assert lines[-1] == f"decoder: {decoder}"
    (both,) = (line.split() for line in lines if line.startswith("both"))
    assert both[:5] == ["both", "all", "30", "blocks", total]


def test_lengths_are_the_tasks_own(capsys, file):
    assert shown(capsys, file, "--task", "vgd")[0].endswith(": vgd small (H 512), 100 regions, 14 tokens")
    assert shown(capsys, file, "--task", "itm")[0].endswith(": itm small (H 512), 100 regions, 50 tokens")


def test_an_epoch_may_be_named(capsys, file):
    lines = shown(capsys, file, "--epoch", 0)
    assert lines[0].startswith("found.json, epoch 0: ") and lines[-1] == "decoder: none+gelu"


def test_bad_input_is_told_in_one_line(capsys, tmp_path, file):
    assert "has no epoch3; --GENO_EPOCH may be one of 0, 7" in refused(capsys, file, "--epoch", 3)
    assert f"genotype file not found: {tmp_path / 'no.json'}" in refused(capsys, tmp_path / "no.json")
    file.write_text(file.read_text()[:-9])
    assert "not valid JSON" in refused(capsys, file)
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps({"epoch0": {**OTHER, "enc": [["self_att_256"]]}}))
    assert "'self_att_256' does not fit hidden size 128" in refused(capsys, wide, "--MODEL", "tiny")


@pytest.mark.parametrize("length", ["0", "-1", "x", "1.5", "1000001", "9" * 5000])
def test_lengths_must_be_whole_and_positive(capsys, file, length):
    with pytest.raises(SystemExit, match="2"):
        main(["show-arch", str(file), f"--regions={length}"])
    assert "argument --regions: must be an integer from 1 to 1000000" in capsys.readouterr().err


# The picture


def test_the_picture_grows_with_the_architecture(capsys, tmp_path, file):
    assert shown(capsys, file, "--png", tmp_path / "new" / "small.png")[-1] == (
        f"picture: {tmp_path / 'new' / 'small.png'}"
    )
    shown(capsys, PUBLISHED / "train_vqa.json", "--png", tmp_path / "large.png")
    (width, height), (_, large_height) = map(png_size, (tmp_path / "new" / "small.png", tmp_path / "large.png"))
    assert width > 900 and 300 < height < large_height
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["small.png"]


def test_every_operation_can_be_drawn(capsys, tmp_path):
    rows = [[name] for name in OPERATIONS if not OPERATIONS[name].reads], [[name] for name in OPERATIONS]
    path = tmp_path / "$every$.json"  # no formula
    path.write_text(json.dumps({"epoch0": {"enc": rows[0], "dec": [*rows[1], list(OPERATIONS)[:4]]}}))
    shown(capsys, path, "--png", tmp_path / "every.png")
    assert png_size(tmp_path / "every.png")[1] > 2000


def test_the_picture_shows_who_reads_the_encoder():
    from mmnas.models.cost import Cost
    from mmnas.search.genotype_picture import draw_architecture

    def arrows(*decoder):
        genotype = Genotype((("self_att_64",),), decoder)
        costs = [Cost(1_050_000, 0)], [Cost()] * len(decoder)
        (axes,) = draw_architecture(genotype, costs, title="", subtitle="").axes
        return [text for text in axes.texts if getattr(text, "arrow_patch", None)], axes

    alone, _ = arrows(("self_att_64",), ("rel_self_att_64",))
    assert len(alone) == 2 + 3  # the two chains
    reading, axes = arrows(("guided_att_64",), ("feed_forward",), ("skip_connect", "uniimg_att_32"))
    assert len(reading) == 2 + 4 + 2
    labels = {text.get_text().strip() for text in axes.texts}
    assert {"tokens", "regions", "SA", "GA", "FFN", "+", "uniimg_att_32", "1.05 M      0"} <= labels
    legend = {text.get_text() for text in axes.get_legend().get_texts()}
    assert legend == {"self attention", "guided attention", "uniimg attention", "feed forward", "skip connect"}


def test_a_picture_that_cannot_be_written_is_an_error(capsys, tmp_path, file):
    (tmp_path / "taken").write_text("")
    assert main(["show-arch", str(file), "--png", str(tmp_path / "taken" / "a.png")]) == 2
    assert f"error: {tmp_path / 'taken'}" in capsys.readouterr().err


def test_very_tall_pictures_are_drawn_coarser(tmp_path):
    save_png(Figure(figsize=(1, 1000)), tmp_path / "tall.png")
    assert png_size(tmp_path / "tall.png") == (65, 65000)


# Names and colours


def test_every_family_has_a_color_and_a_title_of_its_own():
    colors = {spec.family: color_of(name) for name, spec in OPERATIONS.items()}
    assert len(set(colors.values())) == len({family_title(family) for family in colors}) == len(colors)


def test_a_row_is_written_by_the_papers_names():
    assert short_row(("self_att_64", "rel_self_att_64", "guided_att_64", "feed_forward")) == "SA+RSA+GA+FFN"
    assert short_row(("self_att_128", "feed_forward_deep")) == "self_att_128+feed_forward_deep"


def test_operations_of_one_color_differ_in_line_style():
    names = ["self_att_16", "feed_forward", "self_att_64", "feed_forward_2"]
    assert line_styles(names) == [LINE_STYLES[0], LINE_STYLES[0], LINE_STYLES[1], LINE_STYLES[1]]


def test_the_command_line_starts_without_torch_and_matplotlib():
    code = "import sys, mmnas.__main__ as m; m._parser(); print({'torch', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
