"""Small texts and archives that would fill the memory, never end or crash: refused in one line."""

import io
import json
import struct
import zipfile

import pytest

from tests.hostile.mutate import RAW, json_text
from tests.hostile.refusing import refused

BOMB = 256 * 2**20  # bytes that an archive unfolds to
pytestmark = pytest.mark.usefixtures("little_memory")


# JSON and YAML

JSON = ("genotype", "search history", "questions", "annotations", "instances", "processed refs", "flickr index")


@pytest.mark.parametrize("mark", RAW)
@pytest.mark.parametrize("name", JSON)
def test_json_that_is_deep_or_long(read, name, mark):
    refused(read, name, RAW[mark].encode())


@pytest.mark.parametrize("number", ['"@digits@"', '"@float@"', "NaN", "-Infinity", "1e400", str(2**63), "true"])
@pytest.mark.parametrize(("name", "key"), [("questions", "image_id"), ("annotations", "question_id"),
                                           ("instances", "bbox"), ("flickr index", "imgid")])  # fmt: skip
def test_json_numbers(read, name, key, number):
    def altered(path):
        value = json.loads(path.read_text())
        entry = next(
            iter(value["questions" if name == "questions" else "images" if "flickr" in name else "annotations"])
        )
        entry[key] = ["@number@"] * 4 if key == "bbox" else "@number@"
        return json.dumps(value).replace('"@number@"', RAW.get(number, number)).encode()

    refused(read, name, altered)


def test_an_annotation_with_very_many_answers(read):
    def altered(path):
        value = json.loads(path.read_text())
        value["annotations"][2]["answers"] = [{"answer": str(n)} for n in range(60_000)]
        return json.dumps(value).encode()

    read("annotations", altered)  # odd, but no reason for a loop over all pairs


LAUGHS = "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
MERGES = "\n".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 10)}]}}" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "laughs": f"a: &a [1]\n{LAUGHS}\ntraining: {{seed: *i}}",
    "merges": f"a: &a {{x: 1}}\n{MERGES}\ntraining: *i",
    "itself": "training: &a {seed: *a}",
    "deep": "training: " + "[" * 60_000,
    "deep blocks": "- " * 30_000,
    "too large": "#" * 2_000_000,
    "digits": f"training: {{seed: {'9' * 50_000}}}",
    "hexadecimal": f"training: {{seed: 0x{'f' * 50_000}}}",
    "sexagesimal": f"training: {{base_lr: {':'.join('9' * 5000)}.5}}",
    "no date": "training: {seed: 2001-99-99}",
    "code": "training: !!python/object/apply:os.system ['true']",
    "tag without value": "training: {seed: !!int ''}",
    "half a character": r'paths: {data: "\ud800"}',
    "a zero byte": r'paths: {data: "a\0b"}',
    "a long key": f"training: {{? {'x' * 900} : 1}}",
    "a key of two lines": r'training: {split_base_lr: {"a\nb": -1}}',
}  # fmt: skip


@pytest.mark.parametrize("case", YAML)
def test_yaml(read, case):
    refused(read, "config", YAML[case].encode())


# Archives of arrays


def npz(path, name, member, method=zipfile.ZIP_DEFLATED, claimed=None):
    """Return the content of a features file with one member replaced, or of another size than it claims."""
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for each, content in {**members, name: member}.items():
            with archive.open(each, "w") as file:
                for part in content if isinstance(content, list) else [content]:
                    file.write(part)
    data = bytearray(stream.getvalue())
    if claimed is not None:
        entry = data.find(name.encode(), data.find(b"PK\x01\x02")) - 46
        struct.pack_into("<I", data, entry + 24, claimed)
    return bytes(data)


def npy(shape, descr="<f4", version=1):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + struct.pack("<H" if version == 1 else "<I", len(text))
        + text
        + b"\0" * 64
    )


HEADERS = {
    "10^12 numbers": npy("(16, 1000000000000)"),
    "10^12 objects": npy("(16, 1000000000000)", "|O"),
    "long items": npy("(16, 1)", "|V2000000000"),
    "negative": npy("(-2, -8)"),
    "many digits": npy(f"({'9' * 9000},)"),
    "deep": npy("(" * 9000),
    "minus": npy("-" * 1500 + "1"),
    "an unknown version": npy("(16, 1)", version=7),
}


@pytest.mark.parametrize("descr", ["|S0", "|V0", "<U0", "|O", "<M8[s]"])
def test_items_of_no_size_do_not_crash(read, descr):
    refused(read, "npz", lambda path: npz(path, "x.npy", npy("(16, 1)", descr)))
    refused(read, "spacy table", npy("(4, 300)", descr))


@pytest.mark.parametrize("name", ["x.npy", "bbox.npy", "image_h.npy"])
@pytest.mark.parametrize("header", HEADERS)
def test_headers_of_arrays(read, name, header):
    refused(read, "npz", lambda path: npz(path, name, HEADERS[header]), "damaged")
    refused(read, "spacy table", HEADERS[header], "damaged|must be floats")


@pytest.mark.parametrize("claimed", [None, 3 * 16 * 4 + 128])
def test_a_zip_bomb(read, claimed):
    zeros = [npy("(16, 4194304)"), *[b"\0" * 2**20] * (BOMB // 2**20)]
    refused(read, "npz", lambda path: npz(path, "x.npy", zeros, claimed=claimed), "damaged")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compression_that_numpy_does_not_use(read, method):
    refused(read, "npz", lambda path: npz(path, "x.npy", npy("(16, 1)"), method), "damaged")


def test_a_glove_line_without_end(read):
    refused(read, "glove text", b"red " + b"1" * 10**6, "line 1: .*does not end")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("glove.840B.300d.txt", "w") as file:
            for _ in range(BOMB // 2**20):
                file.write(b" " * 2**20)
    refused(read, "glove zip", stream.getvalue(), "line 1: ")


def test_json_text_writes_what_json_does_not():
    assert json_text(["@float@", 1]) == "[1e99999, 1]"


@pytest.mark.parametrize("line", ["3\x1f", "\u0663", "3\x0b", "9" * 100_000, "+3", "3_0"])
def test_ids_that_are_no_whole_numbers(read, line):
    refused(read, "caption ids", f"{line}\n4\n".encode(), "line 1: .* not an image id")
