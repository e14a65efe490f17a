import importlib.metadata
import logging
import os
import zipfile

import numpy as np
import pytest
import spacy
import srsly
from spacy.strings import get_string_id

from mmnas.errors import DataError
from mmnas.text import word_vectors as module
from mmnas.text.vector_sources import GloveText, SpacyVectors
from mmnas.text.word_vectors import count_shared, word_vectors

TOKENS = ("PAD", "UNK", "do", "nt", "red", "Red", "case", "NOUN", "bus", "café", "can", "'s", "5", "$", ".")
# "case" and "NOUN" are symbols of spaCy: their keys are small numbers, no hashes.
WORDS = ["PAD", "UNK", "CLS", "dont", "cannot", "bus's", "5$"]
WORDS += ["red", "Red", "RED", "case", "NOUN", "café", "zzz", ""]


def vector_of(token):
    """A vector that no other token has, with figures that text holds exactly."""
    return np.float32(TOKENS.index(token) + 1) + np.arange(300, dtype=np.float32) / 4


def table():
    return np.stack([vector_of(token) for token in TOKENS])


def write_vocab(folder, rows=None, key2row=None):
    (folder / "vocab").mkdir(parents=True)
    with open(folder / "vocab" / "vectors", "wb") as file:
        np.save(file, table() if rows is None else rows, allow_pickle=False)
    keys = {get_string_id(token): row for row, token in enumerate(TOKENS)} if key2row is None else key2row
    srsly.write_msgpack(folder / "vocab" / "key2row", keys)
    return folder


def write_spacy2_package(root, name="en_vectors_web_lg", rows=None):
    """Write a package as spaCy 2.1 built it: with neither config.cfg nor vectors.cfg."""
    width = {"width": 300, "vectors": len(TOKENS), "keys": len(TOKENS), "name": "en_model.vectors"}
    meta = {"lang": "en", "name": name[3:], "version": "2.1.0", "spacy_version": ">=2.1.0", "vectors": width}
    package = root / name
    inner = write_vocab(package / f"{name}-2.1.0", rows)
    (package / "__init__.py").write_text("raise ImportError('nobody needs to import this')\n")
    (inner / "tokenizer").write_bytes(b"\x80")
    (inner / "vocab" / "lexemes.bin").write_bytes(b"")
    srsly.write_json(inner / "vocab" / "strings.json", sorted(TOKENS))
    for folder in (package, inner):
        srsly.write_json(folder / "meta.json", meta)
    return package


def glove_line(token, vector=None):
    numbers = vector_of(token) if vector is None else vector
    return " ".join([token, *(f"{number:.6g}" for number in numbers)]) + "\n"


def write_glove(path, lines=None):
    lines = [glove_line(token) for token in TOKENS] if lines is None else lines
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def register(root, name):
    """Write the files by which an installed spaCy package makes itself known, as pip leaves them."""
    info = root / f"{name}-2.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1.0\n")
    (info / "entry_points.txt").write_text(f"[spacy_models]\n{name} = {name}\n")


def entry_points_under(root, group):
    """What the interpreter finds under `root` alone, so that a tester's own spaCy packages do not count."""
    found = importlib.metadata.distributions(path=[str(root)])
    return [entry for distribution in found for entry in distribution.entry_points if entry.group == group]


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(module, "PUBLISHED", "en_vectors_not_installed")
    monkeypatch.setattr(module, "_other_packages", list)


@pytest.fixture(scope="module")
def nlp():
    pipeline = spacy.blank("en")
    pipeline.vocab.reset_vectors(width=300)
    for token in TOKENS:
        pipeline.vocab.set_vector(token, vector_of(token))
    return pipeline


def check_words(vectors):
    """By hand: means over the tokens, unknown tokens counted as zeros, upper and lower case apart."""
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(WORDS), 300)
    of = dict(zip(WORDS, vectors, strict=True))
    for token in ("PAD", "UNK", "red", "Red", "case", "NOUN", "café"):
        assert np.array_equal(of[token], vector_of(token))
    assert np.array_equal(of["dont"], (vector_of("do") + vector_of("nt")) / 2)
    assert np.array_equal(of["cannot"], vector_of("can") / 2)
    assert np.array_equal(of["5$"], (vector_of("5") + vector_of("$")) / 2)
    for word in ("CLS", "RED", "zzz", ""):
        assert not of[word].any()


@pytest.mark.parametrize("inner", ["", "en_vectors_web_lg", "en_vectors_web_lg/en_vectors_web_lg-2.1.0"])
def test_spacy_2_layout_from_any_of_its_folders(tmp_path, inner):
    write_spacy2_package(tmp_path)
    check_words(word_vectors(WORDS, tmp_path / inner))


@pytest.mark.filterwarnings("ignore:.*W094")
def test_todays_spacy_cannot_load_the_spacy_2_layout_itself(tmp_path):
    with pytest.raises((OSError, ValueError)):
        spacy.load(write_spacy2_package(tmp_path) / "en_vectors_web_lg-2.1.0")


def test_directory_written_by_todays_spacy_gives_what_its_pipeline_gives(tmp_path, nlp):
    nlp.to_disk(tmp_path / "model")
    vectors = word_vectors(WORDS, str(tmp_path / "model"))
    check_words(vectors)
    for word, vector in zip(WORDS, vectors, strict=True):
        assert np.array_equal(vector, nlp(word).vector), word


def test_the_table_is_mapped_not_loaded(tmp_path):
    source = SpacyVectors(write_vocab(tmp_path))
    assert isinstance(source.rows, np.memmap)
    assert type(source.lookup({"red"})["red"]) is np.ndarray


def test_glove_text_and_zip(tmp_path):
    text = write_glove(tmp_path / "glove.840B.300d.txt")
    check_words(word_vectors(WORDS, text))
    narrow = glove_line("red", np.ones(50))
    archive = {"glove.6B.50d.txt": narrow, "glove.6B.300d.txt": text.read_text("utf-8"), "readme.md": "x"}
    check_words(word_vectors(WORDS, write_zip(tmp_path / "glove.6B.zip", archive)))
    check_words(word_vectors(WORDS, write_zip(tmp_path / "own.zip", {"mine.txt": text.read_text("utf-8")})))


def test_glove_tokens_with_spaces_are_not_the_token_they_start_with(tmp_path):
    other = np.full(300, 9.0)
    lines = [glove_line(". . .", other), glove_line("red 4shared.com", other)]
    vectors = word_vectors(["red", "."], write_glove(tmp_path / "a.txt", lines))
    assert not vectors.any()
    vectors = word_vectors(["red", "."], write_glove(tmp_path / "b.txt", [*lines, *map(glove_line, TOKENS)]))
    assert np.array_equal(vectors, [vector_of("red"), vector_of(".")])


def test_glove_is_read_no_further_than_needed_and_the_first_line_of_a_token_counts(tmp_path):
    lines = [glove_line("red"), glove_line("red", np.zeros(300)), glove_line("bus"), "damaged\n"]
    path = write_glove(tmp_path / "glove.txt", lines)
    assert np.array_equal(word_vectors(["bus", "red"], path), [vector_of("bus"), vector_of("red")])
    with pytest.raises(DataError, match="line 4"):
        word_vectors(["zzz"], path)


def test_glove_without_a_last_newline_or_with_dos_lines(tmp_path):
    text = "".join(glove_line(token) for token in TOKENS)
    (tmp_path / "a.txt").write_bytes(text.rstrip("\n").encode())
    (tmp_path / "b.txt").write_bytes(text.replace("\n", "\r\n").encode())
    check_words(word_vectors(WORDS, tmp_path / "a.txt"))
    check_words(word_vectors(WORDS, tmp_path / "b.txt"))


@pytest.mark.parametrize(
    ("second", "named"),
    [
        (glove_line("bus", np.ones(200)), "line 2: 200 numbers, expected 300"),
        (glove_line("bus", -np.ones(400)), "line 2: 400 numbers, expected 300"),
        (glove_line("bus", np.full(301, 1e-7)), "line 2: 301 numbers, expected 300"),
        (glove_line("bus")[:700], r"line 2: \d+ numbers, expected 300"),
        (glove_line("bus").replace(" 10 ", " 1o "), "line 2: .*1o"),
        (glove_line("bus").replace(" 10 ", " nan "), "not finite"),
        ("\n", "line 2: 0 numbers"),
    ],
)
def test_damaged_glove_names_file_and_line(tmp_path, second, named):
    path = write_glove(tmp_path / "glove.txt", [glove_line("red"), second])
    with pytest.raises(DataError, match=named) as caught:
        word_vectors(["red", "bus"], path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_zips_are_named(tmp_path):
    whole = write_zip(tmp_path / "glove.zip", {"glove.300d.txt": "".join(map(glove_line, TOKENS))})
    data = whole.read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    (tmp_path / "bits.zip").write_bytes(data[:60] + bytes(200) + data[260:])
    write_zip(tmp_path / "empty.zip", {"readme.md": "x"})
    for name in ("cut.zip", "bits.zip", "empty.zip"):
        with pytest.raises(DataError, match=name):
            word_vectors(["red", "zzz"], tmp_path / name)


def test_another_width_is_refused_naming_both(tmp_path):
    write_vocab(tmp_path, rows=np.ones((15, 96), dtype=np.float32))
    with pytest.raises(DataError, match=r"300.*96.*vectors"):
        word_vectors(["red"], tmp_path)
    spacy.blank("en").to_disk(tmp_path / "small")
    with pytest.raises(DataError, match=r"300.*\(0, 0\)"):
        word_vectors(["red"], tmp_path / "small")


def test_floret_vectors_are_refused(tmp_path, nlp):
    nlp.to_disk(tmp_path)
    settings = tmp_path / "vocab" / "vectors.cfg"
    srsly.write_json(settings, {**srsly.read_json(settings), "mode": "floret"})
    with pytest.raises(DataError, match="floret"):
        word_vectors(["red"], tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("vectors", None, "no vocab/vectors"),
        ("key2row", None, "vocab/key2row"),
        ("vectors", 0.5, "damaged: .*vectors"),
        ("vectors", 0.0, "damaged: .*vectors"),
        ("key2row", 0.5, "damaged: .*key2row"),
        ("key2row", 0.0, "damaged: .*key2row"),
        ("key2row", b"\x93\x01\x02\x03", "damaged: .*key2row"),
    ],
)
def test_damaged_spacy_directories_are_named(tmp_path, file, content, named):
    path = write_vocab(tmp_path) / "vocab" / file
    data = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else data[: int(len(data) * content)])
    with pytest.raises(DataError, match=named):
        word_vectors(["red"], tmp_path, cache_dir=tmp_path / "cache")


def test_pickled_objects_and_rows_out_of_range_are_refused(tmp_path):
    write_vocab(tmp_path / "a", key2row={get_string_id("red"): 15})
    with pytest.raises(DataError, match=r"key2row.*15"):
        word_vectors(["red"], tmp_path / "a")
    write_vocab(tmp_path / "b")
    with open(tmp_path / "b" / "vocab" / "vectors", "wb") as file:
        np.save(file, np.array([[{}]]), allow_pickle=True)
    with pytest.raises(DataError, match="vectors"):
        word_vectors(["red"], tmp_path / "b")


def test_a_folder_with_two_packages_is_ambiguous(tmp_path):
    write_vocab(tmp_path / "one")
    write_vocab(tmp_path / "two")
    with pytest.raises(DataError, match=r"several.*one.*two"):
        word_vectors(["red"], tmp_path)


def test_installed_package_is_found_by_name_and_first(tmp_path, monkeypatch):
    write_spacy2_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    check_words(word_vectors(WORDS, "en_vectors_web_lg"))
    data = tmp_path / "data"
    data.mkdir()
    write_glove(data / "glove.840B.300d.txt", [glove_line("red", np.zeros(300))])
    check_words(word_vectors(WORDS, search=data))


def test_another_installed_english_package_comes_next_the_largest_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PUBLISHED", "en_vectors_not_installed")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entry_points_under(tmp_path, group))
    longer = np.concatenate([table(), table()])
    tables = {"en_aa_sm": longer[:, :0], "en_bb_md": table() + 1, "en_cc_lg": longer, "en_dd_md": table() + 1,
              "de_ee_lg": np.concatenate([longer, longer])}  # fmt: skip
    for name, rows in tables.items():
        write_spacy2_package(tmp_path, name, rows)
        register(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    check_words(word_vectors(WORDS))


def test_data_root_is_searched_in_order(tmp_path, nothing_installed):
    write_zip(tmp_path / "glove.840B.300d.zip", {"glove.840B.300d.txt": glove_line("red", np.full(300, 1))})
    assert word_vectors(["red"], search=tmp_path)[0, 0] == 1
    write_glove(tmp_path / "glove.840B.300d.txt", [glove_line("red", np.full(300, 2))])
    assert word_vectors(["red"], search=tmp_path)[0, 0] == 2
    write_vocab(tmp_path / "word_vectors", rows=np.full((15, 300), 3, dtype=np.float32))
    assert word_vectors(["red"], search=tmp_path)[0, 0] == 3
    (tmp_path / "en_vectors_web_lg-2.1.0.tar.gz").write_bytes(b"still packed")
    assert word_vectors(["red"], search=tmp_path)[0, 0] == 3


def test_unpacked_published_archive_in_the_data_root(tmp_path, nothing_installed):
    write_spacy2_package(tmp_path / "en_vectors_web_lg-2.1.0")
    check_words(word_vectors(WORDS, search=tmp_path))


def test_nothing_found_says_how_to_get_vectors(tmp_path, nothing_installed):
    remedy = r"pip install .*en_vectors_web_lg.*glove\.840B.*--WORD_VECTORS=PATH"
    for search in (None, tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=remedy) as caught:
            word_vectors(["red"], search=search)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["no_such_package", "no/such/path.txt", "en-x", "vectors.bin"])
def test_a_source_that_is_not_there_is_named(tmp_path, monkeypatch, source):
    (tmp_path / "vectors.bin").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=source):
        word_vectors(["red"], source)


def test_cache_is_used_while_words_and_table_stay(tmp_path, monkeypatch):
    path, cache = write_glove(tmp_path / "glove.txt"), tmp_path / "cache"
    first = word_vectors(WORDS, path, cache)
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(GloveText, "lookup", None)
        assert np.array_equal(word_vectors(WORDS, path, cache), first)
    assert word_vectors(["red"], path, cache).shape == (1, 300)
    write_glove(path, [glove_line("red", np.full(300, 7)), glove_line("bus")])
    assert word_vectors(["red"], path, cache)[0, 0] == 7
    stat = path.stat()
    write_glove(path, [glove_line("red", np.full(300, 8)), glove_line("bus")])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert word_vectors(["red"], path, cache)[0, 0] == 8


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "other"])
def test_damaged_cache_is_made_anew(tmp_path, damage, caplog):
    path, cache = write_vocab(tmp_path / "source"), tmp_path / "cache"
    word_vectors(WORDS, path, cache)
    (kept,) = cache.iterdir()
    data = kept.read_bytes()
    middle = len(data) // 2
    faults = {"empty": b"", "cut": data[:middle], "text": b"no zip",
              "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]}  # fmt: skip
    if damage == "other":
        np.savez(kept, numbers=np.ones(3))
    else:
        kept.write_bytes(faults[damage])
    check_words(word_vectors(WORDS, path, cache))
    assert str(kept) in caplog.text
    caplog.clear()
    check_words(word_vectors(WORDS, path, cache))
    assert not caplog.records
    assert list(cache.iterdir()) == [kept]


def test_source_and_words_without_a_vector_are_logged_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "mmnas")
    path = write_glove(tmp_path / "glove.txt")
    word_vectors(["red", "zzz", "bus", "qqq"], path)
    (record,) = caplog.records
    assert record.levelname == "INFO" and record.getMessage() == (
        f"word vectors from {path}: 2 of 4 words have none (all zero), 0 share theirs with another word"
    )


def test_words_that_share_vectors_are_counted_and_many_are_a_warning(tmp_path, caplog):
    """As in the tables that small spaCy models have: many words on one row."""
    write_vocab(tmp_path, key2row={get_string_id(token): row // 3 for row, token in enumerate(TOKENS)})
    vectors = word_vectors(["PAD", "UNK", "red", "zzz", "qqq"], tmp_path)
    assert count_shared(vectors) == 2
    assert caplog.records[0].levelname == "WARNING"
    assert "2 of 3 words have none (all zero), 2 share theirs" in caplog.text


def test_a_pruned_table_is_used_only_if_it_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "PUBLISHED", "en_vectors_not_installed")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entry_points_under(tmp_path, group))
    package = write_spacy2_package(tmp_path, "en_core_md")
    key2row = package / "en_core_md-2.1.0" / "vocab" / "key2row"
    srsly.write_msgpack(key2row, {get_string_id(token): row // 3 for row, token in enumerate(TOKENS)})
    register(tmp_path, "en_core_md")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="no word vectors"):
        word_vectors(["red"])
    assert "word vectors of en_core_md are not used, as 10 words share theirs" in caplog.text
    assert word_vectors(["red"], "en_core_md").any()


@pytest.mark.parametrize("form", ["txt", "zip"])
def test_glove_with_a_byte_order_mark_and_in_utf_16(tmp_path, form):
    text = "".join(map(glove_line, TOKENS))

    def write(encoding):
        path = tmp_path / f"{encoding}.{form}"
        if form == "txt":
            path.write_text(text, encoding=encoding)
            return path
        return write_zip(path, {"a.300d.txt": text.encode(encoding)})

    check_words(word_vectors(WORDS, write("utf-8-sig")))
    for encoding in ("utf-16", "utf-16-be", "utf-32"):
        with pytest.raises(DataError, match=f"UTF-16 text: .*{encoding}.{form}: save it as UTF-8"):
            word_vectors(WORDS, write(encoding))


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    path = write_glove(tmp_path / "glove.txt")
    check_words(word_vectors(WORDS, path, tmp_path / "file" / "cache"))
    assert "cannot be written (Not a directory)" in caplog.text


def test_no_words_no_vectors(tmp_path):
    assert word_vectors([], write_glove(tmp_path / "glove.txt")).shape == (0, 300)
