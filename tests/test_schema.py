import json
import math
from typing import Literal

import msgspec
import pytest
from msgspec import Struct

from mmnas.errors import ConfigError, DataError
from mmnas.schema import Count, Finite, Text, convert, describe_misfit, nearest, shown


class Inner(Struct, forbid_unknown_fields=True):
    width: Count
    rate: Finite = 0.5


class Outer(Struct, forbid_unknown_fields=True):
    name: Text
    inner: Inner
    kind: Literal["one", "other"] = "one"
    flag: bool = False
    folder: str | None = None
    steps: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.1, 0.2)
    rates: dict[Text, Finite] = {}
    inners: list[Inner] = []
    table: dict[str, list[Inner]] = {}


PLAIN = {"name": "a", "inner": {"width": 3}}


def test_defaults_fill_what_is_left_out():
    assert convert(PLAIN, Outer) == Outer("a", Inner(3))


def test_everything_given():
    values = {
        "name": "b", "inner": {"width": 4, "rate": 1}, "kind": "other", "flag": True, "folder": "x",
        "steps": [1, 2], "pair": [1, 2e-3], "rates": {"train": 1e-9}, "inners": [{"width": 1}],
        "table": {"a": [{"width": 2}]},
    }  # fmt: skip
    made = convert(values, Outer)
    assert made == Outer(
        "b", Inner(4, 1.0), "other", True, "x", (1, 2), (1.0, 2e-3), {"train": 1e-9}, [Inner(1)], {"a": [Inner(2)]}
    )
    assert isinstance(made.inner.rate, float) and isinstance(made.steps, tuple)
    assert convert(json.loads(msgspec.json.encode(made)), Outer) == made


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"width": 3}}, "key name is missing"),
        ({**PLAIN, "inner": {}}, "key inner.width is missing"),
        ({**PLAIN, "inners": [{"width": 3}, {}]}, "key inners[1].width is missing"),
        ({**PLAIN, "nmae": 1}, "unknown key nmae; did you mean name?"),
        ({**PLAIN, "inner": {"width": 3, "Rate": 1}}, "unknown key inner.Rate; did you mean rate?"),
        ({**PLAIN, "zzzz": 1}, "unknown key zzzz; valid ones: name, inner, kind, flag"),
        ({**PLAIN, "a\n`b": 1}, "unknown key a\\n`b; valid ones"),
        ({**PLAIN, "x - at `$.inner.rate`": 1}, "unknown key x - at `$.inner.rate`; valid ones"),
        ({**PLAIN, "x" * 5000: 1}, "unknown key xxx"),
        ({**PLAIN, 7: 1}, "the content: keys must be names"),
        ({**PLAIN, "name": 3}, "name must be text, not 3"),
        ({**PLAIN, "name": None}, "name must be text, not None"),
        ({**PLAIN, "name": "a\n"}, "name must be UTF-8 text without control characters, not 'a\\n'"),
        ({**PLAIN, "name": "\ud800"}, "name must be UTF-8 text without control characters, not '\\ud800'"),
        ({**PLAIN, "kind": "othr"}, "kind 'othr' is unknown; did you mean other?"),
        ({**PLAIN, "inner": {"width": "3"}}, "inner.width must be an integer, not '3'"),
        ({**PLAIN, "inner": {"width": 3.0}}, "inner.width must be an integer, not 3.0"),
        ({**PLAIN, "inner": {"width": True}}, "inner.width must be an integer, not True"),
        ({**PLAIN, "inner": {"width": 0}}, "inner.width must be an integer of at least 1, not 0"),
        ({**PLAIN, "inner": {"width": 2**63}}, "inner.width must be an integer of at most 9223372036854775807"),
        ({**PLAIN, "inner": {"width": 10**4000}}, "inner.width must be an integer of at most 9223372036854775807"),
        ({**PLAIN, "inner": {"width": 3, "rate": True}}, "inner.rate must be a number, not True"),
        ({**PLAIN, "inner": {"width": 3, "rate": "fast"}}, "inner.rate must be a number, not 'fast'"),
        ({**PLAIN, "inner": {"width": 3, "rate": math.nan}}, "inner.rate must be a number of at least"),
        ({**PLAIN, "inner": {"width": 3, "rate": math.inf}}, "inner.rate must be a number of at most"),
        (
            {**PLAIN, "inner": {"width": 3, "rate": 10**400}},
            "inner.rate must be a number in range, not an integer of",
        ),
        ({**PLAIN, "inner": [3]}, "inner must be a mapping of keys to values, not [3]"),
        ({**PLAIN, "flag": "yes"}, "flag must be true or false, not 'yes'"),
        ({**PLAIN, "flag": 1}, "flag must be true or false, not 1"),
        ({**PLAIN, "folder": 5}, "folder must be text or null, not 5"),
        ({**PLAIN, "steps": [1, "x"]}, "steps[1] must be an integer, not 'x'"),
        ({**PLAIN, "steps": 5}, "steps must be a list, not 5"),
        ({**PLAIN, "pair": [1, 2, 3]}, "pair must be a list of length 2, not [1, 2, 3]"),
        ({**PLAIN, "rates": {"train": "fast"}}, "rates.train must be a number, not 'fast'"),
        ({**PLAIN, "rates": {"val": 1, "a\nb": 1}}, "rates: keys must be names, not ['val', 'a\\nb']"),
        ({**PLAIN, "rates": [1]}, "rates must be a mapping of keys to values, not [1]"),
        ({**PLAIN, "table": {"a": [], "b": [{"width": 1}, {"width": "x"}]}}, "table.b[1].width must be an integer"),
        ([], "the content must be a mapping of keys to values, not []"),
        (None, "the content must be a mapping of keys to values, not None"),
    ],
)
def test_every_fault_names_its_key_in_one_short_line(values, message):
    with pytest.raises(ConfigError) as caught:
        convert(values, Outer)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("values", [{**PLAIN, "\ud800": 1}, {**PLAIN, "kind": "\ud800"}])
def test_what_is_not_plain_is_refused_in_one_line(values):
    with pytest.raises(ConfigError, match="holds what is not plain") as caught:
        convert(values, Outer)
    assert "\n" not in str(caught.value)


def test_the_path_before_the_key_and_the_kind_of_error():
    with pytest.raises(DataError, match=r"^unknown key model\.witdh; did you mean width\?$"):
        convert({"width": 1, "witdh": 1}, Inner, "model", DataError)


def test_msgspecs_own_message_with_the_path_first():
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(b'{"name": "a", "inner": {"width": "x"}}', type=Outer)
    assert describe_misfit(caught.value) == "inner.width: expected int, got str"
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(b'["a\\n"]', type=list[Text])
    assert describe_misfit(caught.value) == "[0]: expected text without control characters"


@pytest.mark.parametrize("value", ["x" * 10**6, [[[[1]]]] * 10**5, 10**4000, {"a": "\n" * 1000}])
def test_a_shown_value_is_short_and_one_line(value):
    assert len(shown(value)) <= 80 and "\n" not in shown(value)


def test_a_value_that_holds_itself_is_shown():
    value = []
    value.append(value)
    assert len(shown(value)) <= 80


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("trian", "did you mean train?"),
        ("TRAIN", "did you mean train?"),
        ("--seed", "valid ones: train, val, test"),
        ("", "valid ones: train, val, test"),
    ],
)
def test_nearest(value, hint):
    assert nearest(value, ("train", "val", "test")) == hint


def test_nearest_keeps_the_spelling_of_the_valid_one():
    assert nearest("--geno_paht", ("--GENO_PATH", "--DATA_PATH")) == "did you mean --GENO_PATH?"
