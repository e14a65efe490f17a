"""Reading JSON of strangers: what is accepted, and the one line that says why something is not."""

import codecs
import os

import msgspec
import pytest

from mmnas.errors import ConfigError, DataError
from mmnas.files import Int64, read_bytes, read_json, write_json


class Entry(msgspec.Struct):
    image_id: Int64


class File(msgspec.Struct):
    entries: list[Entry]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.json"


def refused(path, content, message, kind=File, error=DataError):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=message) as caught:
        read_json(path, "questions file", error, kind)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_value_is_decoded_as_its_type_with_and_without_a_byte_order_mark(path):
    text = '{"more": "é", "entries": [{"image_id": 9223372036854775807, "more": 2}]}'.encode()
    for content in (text, codecs.BOM_UTF8 + text):
        path.write_bytes(content)
        assert read_json(path, kind=File) == File([Entry(2**63 - 1)])
        assert read_json(path)["entries"] == [{"image_id": 2**63 - 1, "more": 2}]


def test_a_file_that_cannot_be_read_is_named(path, tmp_path):
    with pytest.raises(ConfigError, match=r"genotype file not found: .*file\.json"):
        read_json(path, "genotype file", ConfigError)
    with pytest.raises(DataError, match="file cannot be read: .*: Is a directory"):
        read_json(tmp_path)
    with pytest.raises(DataError, match="file cannot be read: .*null byte"):
        read_bytes("\0")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ('[{"image_id": 3}, {"image_id": "3"}]', r"entries\[1\]\.image_id: expected int, got str"),
        ('[{"image_id": true}]', r"entries\[0\]\.image_id: expected int, got bool"),
        ('[{"image_id": 9223372036854775808}]', r"entries\[0\]\.image_id: expected int <="),
        (f'[{{"image_id": {"9" * 5000}}}]', r"entries\[0\]\.image_id: integer value out of range"),
        ('[{"image_id": 1e999}]', r"entries\[0\]\.image_id: "),
        ("[{}]", r"entries\[0\]: object missing required field image_id"),
        ("{}", "entries: expected array, got object"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_path(path, entries, message):
    refused(path, f'{{"entries": {entries}}}', message)
    refused(path, f'{{"entries": {entries}}}', message, error=ConfigError)


@pytest.mark.parametrize("kind", [dict, msgspec.Raw, File])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1, column 1: .*cut off"),
        (b'{\n"x": [1, 2', "line 2, column 11: .*cut off"),
        (b'{\n"x": [1, 2,]}', r"line 2, column 12: trailing comma"),
        (b'{"x": NaN}', "line 1, column 7: invalid character"),
        (b'{"x": -Infinity}', "line 1, column 8: invalid character"),
        (b'{"x": "\\ud83d"}', "lone surrogate"),
        (b'{"entries": []} 2', "trailing characters"),
        (b'{"x": "\xff"}', "not UTF-8 text: .*invalid start byte: save it as UTF-8"),
        (b'{"x": "\xc3', "not UTF-8 text: .*unexpected end"),
        ('{"x": 1}'.encode("utf-16"), "UTF-16 text: .*save it as UTF-8"),
        (b'{"x": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_damaged_files_are_refused_whether_or_not_the_fault_lies_in_what_is_kept(path, kind, content, message):
    refused(path, content, message, kind)


@pytest.mark.parametrize("kind", [dict, msgspec.Raw, File])
def test_a_key_that_an_object_holds_twice_is_an_error(path, kind):
    for text in ('{"entries": [], "x": {}, "entries": []}', '{"entries": [], "x": [{"a": 1, "\\u0061": 2}]}'):
        refused(path, text, "holds the key '(entries|a)' twice in one object: .*: remove one", kind)


def test_a_path_that_is_not_utf_8_can_be_written_and_read_again(path):
    write_json(path, {"checkpoint": os.fsdecode(b"caf\xe9/e.pkl"), "answer": "caf\xe9"})
    assert read_json(path) == {"checkpoint": "caf?/e.pkl", "answer": "caf\xe9"}


def test_text_in_utf_16_and_utf_32_is_named_with_and_without_a_mark(path):
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"):
        refused(path, '{"x": 1}'.encode(encoding), "UTF-16 text: .*: save it as UTF-8")


def test_bad_bytes_across_the_border_of_a_block_are_found_and_good_ones_are_not_cut(path):
    start = b'"' + b"a" * (2**20 - 2)
    path.write_bytes(start + "é".encode() + b'"')
    assert read_json(path)[-1] == "é"
    refused(path, start + b'\xc3"', "not UTF-8 text", str)


def test_infinite_numbers_are_refused_where_they_are_kept(path):
    for text in ("1e999", "-1e999", "[1e999]"):
        refused(path, text, "out of range", float if text[0] != "[" else list[float])
        path.write_text(text)
        with pytest.raises(DataError, match="out of range"):
            read_json(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_lacks_are_never_written(path, value):
    path.write_text("1")
    with pytest.raises(DataError, match=r"file\.json is not written: it would hold NaN or an infinite number"):
        write_json(path, [{"box": [0.0, value]}])
    assert path.read_text() == "1" and [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_pipe_is_refused_instead_of_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(DataError, match="file cannot be read: .*: not a regular file"):
        read_json(path)
    with pytest.raises(DataError, match="/dev/zero: not a regular file"):
        read_json("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced(path, make):
    make(path)
    before = path.lstat().st_mode
    with pytest.raises(OSError, match=r"not a file that can be replaced: .*file\.json"):
        write_json(path, 1)
    assert path.lstat().st_mode == before and list(path.parent.iterdir()) == [path]
