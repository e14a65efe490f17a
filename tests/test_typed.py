import math
from dataclasses import dataclass, field

import pytest

from mmnas.errors import ConfigError
from mmnas.typed import build, nearest, reject_unknown, to_plain


@dataclass(frozen=True)
class Inner:
    width: int
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    flag: bool = False
    folder: str | None = None
    steps: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.1, 0.2)
    rates: dict[str, float] = field(default_factory=dict)


PLAIN = {"name": "a", "inner": {"width": 3}}


def test_defaults_fill_what_is_left_out():
    assert build(Outer, PLAIN, "") == Outer("a", Inner(3))


def test_everything_given():
    values = {
        "name": "b", "inner": {"width": 4, "rate": 1}, "flag": True, "folder": "x", "steps": [1, 2],
        "pair": [1, "2e-3"], "rates": {"train": "1e-9"},
    }  # fmt: skip
    expected = Outer("b", Inner(4, 1.0), True, "x", (1, 2), (1.0, 2e-3), {"train": 1e-9})
    assert build(Outer, values, "") == expected


def test_plain_there_and_back():
    value = Outer("b", Inner(4, 1.0), True, None, (1, 2), (1.0, 2.0), {"train": 3.0})
    plain = to_plain(value)
    assert plain["steps"] == [1, 2]
    assert plain["inner"] == {"width": 4, "rate": 1.0}
    assert build(Outer, plain, "") == value


def test_to_plain_leaves_no_tuple_at_any_depth():
    assert to_plain({"a": ((1, 2), [{"b": (3,)}])}) == {"a": [[1, 2], [{"b": [3]}]]}


@pytest.mark.parametrize(("text", "number"), [("1e-9", 1e-9), ("7.0e-5", 7e-5), (3, 3.0), ("-2", -2.0)])
def test_numbers_are_read_by_the_type_of_their_field(text, number):
    made = build(Inner, {"width": 1, "rate": text}, "").rate
    assert made == number
    assert isinstance(made, float)


def test_infinity_is_a_float():
    assert build(Inner, {"width": 1, "rate": "inf"}, "").rate == math.inf


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"width": 3}}, "key name is missing"),
        ({**PLAIN, "inner": {}}, "key inner.width is missing"),
        ({**PLAIN, "nmae": 1}, "unknown key nmae; did you mean name?"),
        ({**PLAIN, "inner": {"width": 3, "Rate": 1}}, "unknown key inner.Rate; did you mean rate?"),
        ({**PLAIN, "zzzz": 1}, "unknown key zzzz; valid ones: name, inner, flag"),
        ({**PLAIN, 7: 1}, "unknown key 7; valid ones"),
        ({**PLAIN, "name": 3}, "name must be of type str, not 3"),
        ({**PLAIN, "name": None}, "name must be of type str, not None"),
        ({**PLAIN, "inner": {"width": "3"}}, "inner.width must be of type int, not '3'"),
        ({**PLAIN, "inner": {"width": 3.0}}, "inner.width must be of type int, not 3.0"),
        ({**PLAIN, "inner": {"width": True}}, "inner.width must be of type int, not True"),
        ({**PLAIN, "inner": {"width": 3, "rate": True}}, "inner.rate must be of type float, not True"),
        ({**PLAIN, "inner": {"width": 3, "rate": "fast"}}, "inner.rate must be of type float, not 'fast'"),
        ({**PLAIN, "inner": {"width": 3, "rate": None}}, "inner.rate must be of type float, not None"),
        ({**PLAIN, "inner": [3]}, "inner must be a mapping of keys to values"),
        ({**PLAIN, "flag": "yes"}, "flag must be of type bool, not 'yes'"),
        ({**PLAIN, "flag": 1}, "flag must be of type bool, not 1"),
        ({**PLAIN, "folder": 5}, "folder must be of type str, not 5"),
        ({**PLAIN, "steps": [1, "x"]}, "steps[1] must be of type int, not 'x'"),
        ({**PLAIN, "steps": 5}, "steps must be of type tuple"),
        ({**PLAIN, "pair": [1, 2, 3]}, "pair must hold 2 values, not 3"),
        ({**PLAIN, "rates": {"train": "fast"}}, "rates.train must be of type float, not 'fast'"),
        ({**PLAIN, "rates": [1]}, "rates must be of type dict"),
        ([], "configuration must be a mapping"),
        (None, "configuration must be a mapping"),
    ],
)
def test_every_fault_names_its_key(values, message):
    with pytest.raises(ConfigError) as caught:
        build(Outer, values, "")
    assert str(caught.value).startswith(message.removesuffix("?"))
    assert "\n" not in str(caught.value)


def test_the_place_stands_before_the_key():
    with pytest.raises(ConfigError, match=r"^unknown key model\.witdh; did you mean width\?$"):
        build(Inner, {"witdh": 1}, "model.")


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


def test_reject_unknown_accepts_what_is_valid():
    reject_unknown({"a": 1}, ("a", "b"), "key", "")
    with pytest.raises(ConfigError, match="unknown section x.c; valid ones: a, b"):
        reject_unknown({"a": 1, "c": 1}, ("a", "b"), "section", "x.")
