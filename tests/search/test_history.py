import copy
import json
import math

import pytest

from mmnas.errors import DataError
from mmnas.search.history import SearchEpoch, SearchHistory, entropy, margin, read_history, write_history

HISTORY = {
    "candidates": {"enc": ["self_att_64", "feed_forward"], "dec": ["guided_att_64"]},
    "epochs": [
        {
            "epoch": epoch,
            "loss": 4.0 / epoch,
            "architecture_steps": 5 * (epoch - 1),
            "changed": epoch - 1,
            "unchanged_epochs": 1,
            "probabilities": {"enc": [[0.75, 0.25], [0.5, 0.5]], "dec": [[1.0]]},
        }
        for epoch in (1, 2)
    ],
}


def with_value(value, *keys):
    """Return the history with `value` at the end of `keys`; `...` removes the key."""
    history = copy.deepcopy(HISTORY)
    place = history
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    if value is ...:
        del place[keys[-1]]
    return history


def read(tmp_path, value):
    path = tmp_path / "search_a.json"
    path.write_text(json.dumps(value))
    return read_history(path)


# Figures of a row


def test_entropy_runs_from_0_to_1():
    assert entropy([1.0, 0.0, 0.0]) == 0 and math.copysign(1, entropy([1.0, 0.0])) == 1
    assert entropy([0.25] * 4) == pytest.approx(1)
    assert entropy([0.5, 0.5, 0.0, 0.0]) == pytest.approx(0.5)  # ln 2 / ln 4
    assert entropy([0.75, 0.25]) == pytest.approx(0.811278, abs=1e-6)  # 2 - 0.75 log2(3) bits
    assert entropy([1.0]) == 0


def test_margin_is_that_of_the_two_largest():
    assert margin([0.125, 0.5, 0.375]) == 0.125
    assert margin([0.25, 0.25, 0.5]) == 0.25
    assert margin([0.5, 0.5]) == 0
    assert margin([1.0]) == 1


# The file


def test_the_file_has_the_form_that_is_documented(tmp_path):
    epochs = [SearchEpoch(**entry) for entry in HISTORY["epochs"]]
    write_history(tmp_path / "log" / "search_a.json", SearchHistory(HISTORY["candidates"], epochs))
    assert json.loads((tmp_path / "log" / "search_a.json").read_text()) == HISTORY
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["search_a.json"]


def test_what_is_written_is_read_again(tmp_path):
    history = read(tmp_path, HISTORY)
    assert history.candidates == HISTORY["candidates"]
    assert history.epochs[1] == SearchEpoch(2, 2.0, 5, 1, 1, {"enc": [[0.75, 0.25], [0.5, 0.5]], "dec": [[1.0]]})
    write_history(tmp_path / "b.json", history)
    assert read_history(tmp_path / "b.json") == history


def test_what_was_scored_is_part_of_the_file(tmp_path):
    genotype = {"enc": [["feed_forward"], ["self_att_64"]], "dec": [["guided_att_64"]]}
    scored = [{"genotype": genotype, "loss": 0.5, "parameters": 7, "multiply_adds": 5}]
    history = read(tmp_path, {**HISTORY, "scored": scored})
    assert history.found == history.scored[0] and history.found.genotype.to_dict() == genotype
    write_history(tmp_path / "b.json", history)
    assert json.loads((tmp_path / "b.json").read_text())["scored"] == scored
    best = read(tmp_path, HISTORY).found.genotype.to_dict()  # the most probable one where nothing was scored
    assert best == {"enc": [["self_att_64"], ["self_att_64"]], "dec": [["guided_att_64"]]}


def test_whole_numbers_are_numbers(tmp_path):
    history = read(tmp_path, with_value(3, "epochs", 0, "loss"))
    assert isinstance(history.epochs[0].loss, float)
    assert read(tmp_path, with_value([[1, 0], [0, 1]], "epochs", 0, "probabilities", "enc")).epochs


def test_probabilities_may_be_rounded(tmp_path):
    assert read(tmp_path, with_value([0.3334, 0.6663], "epochs", 0, "probabilities", "enc", 0)).epochs


EPOCH = ("epochs", 1)
ROWS = (*EPOCH, "probabilities", "enc")
PATH = {"enc": [["feed_forward"], ["self_att_64"]], "dec": [["guided_att_64"]]}
OTHER = PATH | {"enc": [["feed_forward"]]}
SCORED = {"genotype": PATH, "loss": 0.5, "parameters": 7, "multiply_adds": 5}


@pytest.mark.parametrize(
    "value, keys, message",
    [
        (..., ("epochs",), "key epochs is missing"),
        ([], ("epochs",), "epochs must be a list of length at least 1, not []"),
        (..., ("candidates", "dec"), "candidates must be a mapping with the keys enc, dec"),
        ([], ("candidates", "enc"), "candidates.enc must be a list of length at least 1, not []"),
        (["feed_forward", "feed_forward"], ("candidates", "enc"), "candidates.enc must be distinct"),
        (["feed_forward", ["x"]], ("candidates", "enc"), "candidates.enc[1] must be text, not ['x']"),
        (["feed_forward", "ffn"], ("candidates", "enc"), "candidates.enc must be names of operations; 'ffn'"),
        (..., (*EPOCH, "loss"), "key epochs[1].loss is missing"),
        (1, (*EPOCH, "time"), "unknown key epochs[1].time; valid ones: epoch, loss, "),
        (7, EPOCH, "epochs[1] must be a mapping of keys to values, not 7"),
        (0, (*EPOCH, "epoch"), "epochs[1].epoch must be an integer of at least 1, not 0"),
        (1, (*EPOCH, "epoch"), "epochs[1].epoch must be above 1, the entry before"),
        ([{"genotype": {"enc": [["x"]], "dec": [["gelu"]]}}], ("scored",), "scored[0].genotype.enc[0]: unknown op"),
        ([SCORED | {"genotype": OTHER}], ("scored",), "scored[0].genotype.enc must be a path through"),
        ([SCORED, SCORED | {"loss": 0.25}], ("scored",), "scored must be in order, the best first"),
        (9, ("epochs", 0, "architecture_steps"), "epochs[1].architecture_steps must be at least 9, as before"),
        (2.0, (*EPOCH, "epoch"), "epochs[1].epoch must be an integer, not 2.0"),
        (10**300, (*EPOCH, "epoch"), "epochs[1].epoch must be an integer of at most"),
        (True, (*EPOCH, "changed"), "epochs[1].changed must be an integer, not True"),
        (-1, (*EPOCH, "architecture_steps"), "epochs[1].architecture_steps must be"),
        ("3", (*EPOCH, "unchanged_epochs"), "epochs[1].unchanged_epochs must be"),
        (10**400, (*EPOCH, "loss"), "epochs[1].loss must be a number in range"),
        (None, (*EPOCH, "loss"), "epochs[1].loss must be a number, not None"),
        (..., ROWS, "epochs[1].probabilities must be a mapping with the keys enc, dec"),
        ([], ROWS, "epochs[1].probabilities.enc must be a list"),
        ([[0.5, 0.5]], ROWS, "epochs[1].probabilities.enc must be 2 blocks, as in the entry before"),
        ([1.0], (*ROWS, 1), "epochs[1].probabilities.enc[1] must be 2 probabilities, one per candidate"),
        ([1.5, -0.5], (*ROWS, 1), "epochs[1].probabilities.enc[1][0] must be a number of at most 1.0, not 1.5"),
        (["0.5", 0.5], (*ROWS, 1), "epochs[1].probabilities.enc[1][0] must be a number, not '0.5'"),
        ([0.5, 0.4], (*ROWS, 1), "epochs[1].probabilities.enc[1] must be probabilities that sum to 1, not to 0.9"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, value, keys, message):
    with pytest.raises(DataError) as caught:
        read(tmp_path, with_value(value, *keys))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'search_a.json'}: {message}"), text
    assert text.endswith("; take the file as the search wrote it") and "\n" not in text


@pytest.mark.parametrize(("value", "keys"), [(math.nan, (*EPOCH, "loss")), ([math.inf, 0.0], (*ROWS, 1))])
def test_numbers_that_json_does_not_have(tmp_path, value, keys):
    with pytest.raises(DataError, match=r"not valid JSON: .*search_a.json, line 1, column \d+: invalid character"):
        read(tmp_path, with_value(value, *keys))


@pytest.mark.parametrize("value", [[], 3, None, "history"])
def test_another_json_is_no_history(tmp_path, value):
    with pytest.raises(DataError, match="the content must be a mapping of keys to values"):
        read(tmp_path, value)


def test_missing_and_truncated_files_are_named(tmp_path):
    with pytest.raises(DataError, match="search history .* not found: .*search_b.json"):
        read_history(tmp_path / "search_b.json")
    (tmp_path / "search_c.json").write_text(json.dumps(HISTORY)[:-40])
    with pytest.raises(DataError, match="not valid JSON: .*search_c.json"):
        read_history(tmp_path / "search_c.json")
