"""Packing folders and archives, going on after a break, and the check of a store."""

import fcntl
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest

from mmnas.__main__ import main
from mmnas.data import store_writer
from mmnas.data.store import BOXES, FEATURES, HEADER, INDEX, FeatureStore
from mmnas.data.store_writer import pack, verify
from mmnas.errors import MMNasError
from tests.conftest import ROOT
from tests.data.packing_images import SIZE, check_image, image_arrays, write_images


def check_store(path, image_ids):
    store = FeatureStore(path)
    assert sorted(store.image_ids) == sorted(image_ids)
    for image_id in image_ids:
        check_image(store[image_id], image_id)
    assert verify(path).images == len(image_ids)


def fails(function, *arguments, **options):
    """Call, expect an error of one line, return it."""
    with pytest.raises(MMNasError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "store.features"


@pytest.fixture
def small_commits(monkeypatch):
    monkeypatch.setattr(store_writer, "_COMMIT_IMAGES", 2)


# Sources


def write_archive(path, members, mode="w:gz"):
    """Write an archive of (name, content) pairs; a list in the place of a content holds the member's type."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                (member.type,), member.linkname = content, "/etc/passwd"
                archive.addfile(member)
    return path


def npz_bytes(image_id):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **image_arrays(image_id))
    return buffer.getvalue()


def members_of(image_ids, folder="mscoco/train2014"):
    return [(f"{folder}/COCO_train2014_{image_id:012d}.jpg.npz", npz_bytes(image_id)) for image_id in image_ids]


def test_folders_files_and_archives_make_one_store(tmp_path, out):
    write_images(tmp_path / "npz" / "train2014", [1, 2])
    write_images(tmp_path / "npz" / "val2014", [3])
    (alone,) = write_images(tmp_path / "alone", [4]).iterdir()
    zipped = write_archive(tmp_path / "a.tar.gz", members_of([5, 6]))
    plain = write_archive(tmp_path / "b.tar", members_of([7]), "w")
    header, added = pack([tmp_path / "npz", alone, zipped, plain], out, feature_size=SIZE)
    assert (header.images, added, header.regions) == (7, 7, 2 + 3 + 1 + 2 + 3 + 1 + 2)
    check_store(out, range(1, 8))


def test_fc7_and_pool5_are_recognised(tmp_path, out):
    (tmp_path / "npz").mkdir()
    arrays = image_arrays(9, regions=2)
    arrays["fc7"], arrays["pool5"] = np.split(arrays.pop("x").T, [5], axis=1)
    np.savez(tmp_path / "npz" / "9.npz", **arrays)
    assert pack([tmp_path / "npz"], out, feature_size=SIZE)[0].kind == "fc7+pool5"
    check_features = FeatureStore(out)[9].features
    np.testing.assert_array_equal(check_features, image_arrays(9, regions=2)["x"].T)


def test_kinds_do_not_mix(tmp_path, out):
    write_images(tmp_path / "npz", [1])
    arrays = image_arrays(2, regions=2)
    arrays["fc7"], arrays["pool5"] = np.split(arrays.pop("x").T, [5], axis=1)
    np.savez(tmp_path / "npz" / "COCO_train2014_2.npz", **arrays)
    assert "has no key x; its fc7 and pool5 are what" in fails(pack, [tmp_path / "npz"], out, feature_size=SIZE)


def test_what_is_no_feature_file_is_passed_over(tmp_path, out):
    members = [
        ("mscoco", [tarfile.DIRTYPE]), ("README_1.txt", b"text"), ("mscoco/mean.npz", b"no id"),
        ("mscoco/._COCO_train2014_1.npz", b"of another system"), ("COCO_train2014_6.npz", [tarfile.CHRTYPE]),
        *members_of([1]),
    ]  # fmt: skip
    pack([write_archive(tmp_path / "a.tgz", members)], out, feature_size=SIZE)
    check_store(out, [1])


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_in_an_archive_is_followed_in_it_and_never_dropped(tmp_path, out, kind, mode):
    names = [f"COCO_train2014_{image_id:012d}.jpg.npz" for image_id in (1, 2)]
    np.savez(tmp_path / names[0], **image_arrays(1))
    for target, message in (
        (names[0], None),
        ("/etc/passwd", "a link to /etc/passwd, which is not in the archive"),
    ):
        path = tmp_path / "a.tar"
        with tarfile.open(path, mode) as archive:
            archive.add(tmp_path / names[0], names[0])
            link = tarfile.TarInfo(names[1])
            link.type, link.linkname = kind, target
            archive.addfile(link)
        if message is None:
            pack([path], out, feature_size=SIZE)
            np.testing.assert_array_equal(FeatureStore(out)[2].features, FeatureStore(out)[1].features)
            shutil.rmtree(out)
        else:
            text = fails(pack, [path], out, feature_size=SIZE)
            assert f"{path}: {names[1]} is {message}" in text


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE])
def test_a_header_that_claims_gigabytes_is_not_read(tmp_path, out, kind):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 3 * 2**30
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(header.size + 512)  # which takes no space
    assert "a header of 3221225472 bytes" in fails(pack, [path], out, feature_size=SIZE)


def sparse_header(numbers):
    """Return the header of a sparse file whose table of offsets and lengths holds arbitrary bytes."""
    member = tarfile.TarInfo("COCO_train2014_1.npz")
    member.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[386 : 386 + len(numbers)] = numbers
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


PAX_SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "many"}


ENDLESS = {"GNU.sparse.map": f"0,{2**42}", "GNU.sparse.size": str(2**42)}


@pytest.mark.parametrize(
    "content",
    [
        *(sparse_header(numbers) for numbers in (b"", b"\xff" * 97, b"77777777777\0" * 8, b"\x80" + bytes(95))),
        *(
            tarfile.TarInfo("COCO_train2014_1.npz").create_pax_header({**info, "pax_headers": pax}, "utf-8")
            for info in [tarfile.TarInfo("COCO_train2014_1.npz").get_info()]
            for pax in (PAX_SPARSE, {"GNU.sparse.map": "a,b"}, {"GNU.sparse.size": "x", "size": "-5"}, ENDLESS)
        ),
    ],
)
def test_sparse_files_in_archives_are_one_line(tmp_path, out, content):
    (tmp_path / "a.tar").write_bytes(content + b"\1" * 4096 + bytes(10240))
    assert f"{tmp_path}/a.tar" in fails(pack, [tmp_path / "a.tar"], out, feature_size=SIZE)


def test_an_archive_never_writes_outside_the_store(tmp_path, out, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    members = [*members_of([1], ".."), *members_of([2], str(tmp_path)), *members_of([3], "a/../../b")]
    pack([write_archive(tmp_path / "a.tar.gz", members)], out, feature_size=SIZE)
    check_store(out, [1, 2, 3])
    files = ["boxes.bin", "features.bin", "index.bin", "store.features", "store.json"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["a.tar.gz", "inside", "out", *files])


@pytest.mark.parametrize("compress", [True, False])
def test_an_archive_cut_anywhere_is_named_and_what_was_packed_stays(tmp_path, out, compress, small_commits):
    path = write_archive(tmp_path / "a.tar.gz", members_of([1, 2, 3, 4]), "w:gz" if compress else "w")
    content = path.read_bytes()
    end = len(content) if compress else len(content.rstrip(b"\0")) // 512 * 512 + 512
    for length in (*range(0, end - 1, end // 23), *([512 * n for n in range(end // 512)] if not compress else [])):
        path.write_bytes(content[:length])
        text = fails(pack, [path], out, feature_size=SIZE)
        assert str(path) in text and "download it again" in text
    path.write_bytes(content)
    _, added = pack([path], out, feature_size=SIZE)
    assert compress or added < 4  # so small a file is decompressed at once
    check_store(out, [1, 2, 3, 4])


def test_a_turned_byte_of_an_archive_is_named(tmp_path, out):
    path = write_archive(tmp_path / "a.tar.gz", members_of([1, 2]))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the check sum at the end of a gzip file
    path.write_bytes(content)
    assert "damaged or truncated at or behind" in fails(pack, [path], out, feature_size=SIZE)


def test_a_member_that_claims_too_much_is_not_read(tmp_path, out):
    member = tarfile.TarInfo("COCO_train2014_1.npz")
    member.size = 10**15
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(10**4)))
    assert "COCO_train2014_1.npz has 1000000000000000 bytes" in fails(pack, [path], out, feature_size=SIZE)


@pytest.mark.parametrize("name", ["absent", "absent.tar.gz", "empty", "notes.txt", "empty.tar", "page.tar.gz"])
def test_a_source_without_features_is_named_and_leaves_no_store(tmp_path, out, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "page.tar.gz").write_text("<html>404</html>")
    write_archive(tmp_path / "empty.tar", [("a.txt", b"")], "w")
    assert str(tmp_path / name) in fails(pack, [tmp_path / name], out, feature_size=SIZE)
    assert not out.exists()


def test_an_image_that_is_there_twice_is_named_with_both_places(tmp_path, out):
    folder = write_images(tmp_path / "npz", [1, 2])
    archive = write_archive(tmp_path / "a.tar", members_of([2]), "w")
    for sources in ([folder, archive], [archive, folder]):
        text = fails(pack, sources, out, feature_size=SIZE)
        name = "COCO_train2014_000000000002.jpg.npz"
        assert "image 2 is in " in text and f"{folder}/{name}" in text
        assert f"{archive}: mscoco/train2014/{name}" in text
        shutil.rmtree(out)
    assert "image 1 is in " in fails(pack, [folder, folder], out, feature_size=SIZE)


# Going on


def test_a_damaged_file_is_named_and_packing_goes_on_once_it_is_mended(tmp_path, out):
    folder = write_images(tmp_path / "npz", range(1, 6))
    (damaged,) = folder.glob("*3.jpg.npz")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    assert f"{damaged} is damaged" in fails(pack, [folder], out, feature_size=SIZE)
    text = fails(FeatureStore, out)
    assert "unfinished (2 images so far)" in text and "python -m mmnas pack-features" in text
    assert "unfinished" in fails(verify, out)
    damaged.write_bytes(whole)
    assert pack([folder], out, feature_size=SIZE)[1] == 3
    check_store(out, range(1, 6))


def test_a_damaged_member_is_named_with_its_archive(tmp_path, out):
    archive = write_archive(tmp_path / "a.tar.gz", [*members_of([1]), ("COCO_val2014_2.npz", b"PK damaged")])
    assert f"{archive}: COCO_val2014_2.npz is damaged" in fails(pack, [archive], out, feature_size=SIZE)


def test_a_break_anywhere_loses_nothing(tmp_path, out, small_commits, monkeypatch):
    folder = write_images(tmp_path / "npz", range(1, 8))
    files = store_writer.feature_files

    def until(count):
        def interrupted(source):
            for number, file in enumerate(files(source)):
                if number == count:
                    raise KeyboardInterrupt
                yield file

        return interrupted

    for count in range(1, 7):
        monkeypatch.setattr(store_writer, "feature_files", until(count))
        with pytest.raises(KeyboardInterrupt):
            pack([folder], out, feature_size=SIZE)
        assert f"({count} images so far)" in fails(FeatureStore, out)
    monkeypatch.setattr(store_writer, "feature_files", files)
    assert pack([folder], out, feature_size=SIZE)[1] == 1
    assert pack([folder], out, feature_size=SIZE)[1] == 0
    check_store(out, range(1, 8))


def test_packed_files_are_not_read_again(tmp_path, out, monkeypatch):
    folder = write_images(tmp_path / "npz", [1, 2, 3])
    (damaged,) = folder.glob("*3.jpg.npz")
    whole = damaged.read_bytes()
    damaged.write_bytes(b"")
    fails(pack, [folder], out, feature_size=SIZE)
    damaged.write_bytes(whole)
    for path in folder.glob("*[12].jpg.npz"):
        path.write_bytes(b"")
    assert pack([folder], out, feature_size=SIZE)[1] == 1
    check_store(out, [1, 2, 3])


def images_in(path):
    """Return how many images are committed."""
    header = path / HEADER
    return json.loads(header.read_text())["images"] if header.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_goes_on(tmp_path, out, number):
    folder = write_images(tmp_path / "npz", [1])
    (original,) = folder.iterdir()
    for image_id in range(2, 4001):
        os.link(original, folder / f"COCO_train2014_{image_id:012d}.jpg.npz")
    command = [sys.executable, "-m", "mmnas", "pack-features", str(folder), str(out), f"--feature-size={SIZE}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not images_in(out):  # the first commits are on the disk
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number), errors
    assert "unfinished" in fails(FeatureStore, out)
    header, added = pack([folder], out, feature_size=SIZE)
    assert 0 < added < 4000
    assert header.images == verify(out).images == 4000


@pytest.mark.parametrize("changes", [{"dtype": "float16"}, {"feature_size": 4}, {"sources": ["other"]}])
@pytest.mark.parametrize("finished", [True, False])
def test_going_on_otherwise_than_begun_is_refused_with_the_command(tmp_path, out, changes, finished):
    folder = write_images(tmp_path / "npz", [1, 2])
    write_images(tmp_path / "other", [3])
    if not finished:
        (folder / "COCO_train2014_000000000009.npz").write_bytes(b"")
        fails(pack, [folder], out, feature_size=SIZE)
    else:
        pack([folder], out, feature_size=SIZE)
    wanted = {"sources": [folder], "feature_size": SIZE, **changes}
    wanted["sources"] = [tmp_path / source for source in wanted["sources"]]
    text = fails(pack, out=out, **wanted)
    assert "has other sources, dtype or width" in text
    assert f"python -m mmnas pack-features {folder} {out} --dtype float32 --feature-size {SIZE}" in text


# The file


def test_another_file_or_folder_is_never_written_over(tmp_path, out):
    folder = write_images(tmp_path / "npz", [1])
    out.parent.mkdir()
    out.write_text("my notes" * 1000)
    assert str(out) in fails(pack, [folder], out, feature_size=SIZE)
    assert out.read_text() == "my notes" * 1000
    out.unlink()
    out.mkdir()
    for name in ("notes.txt", FEATURES):
        (out / name).write_text("mine")
        assert "the last argument is the folder to write" in fails(pack, [folder], out, feature_size=SIZE)
        assert (out / name).read_text() == "mine" and len(list(out.iterdir())) == 1
        (out / name).unlink()
    pack([folder], out, feature_size=SIZE)
    check_store(out, [1])
    text = fails(pack, [folder], folder, feature_size=SIZE)
    assert f"{folder} holds other files" in text


def test_what_a_kill_before_the_first_image_left_is_in_nobodys_way(tmp_path, out):
    folder = write_images(tmp_path / "npz", [1])
    out.mkdir(parents=True)
    (out / ".store.json.999999999.tmp").write_text("{")
    pack([folder], out, feature_size=SIZE)
    check_store(out, [1])
    header = json.loads((out / HEADER).read_text())
    begun = {**header, "kind": "", "feature_size": 0, "images": 0, "regions": 0, "checksum": 0, "finished": False}
    (out / HEADER).write_text(json.dumps(begun))
    assert pack([folder], out, "float16", SIZE)[1] == 1
    assert verify(out).dtype == "float16"


def test_a_source_with_a_name_of_no_encoding(tmp_path, out):
    folder = write_images(tmp_path / os.fsdecode(b"np\xffz"), [1])
    pack([folder], out, feature_size=SIZE)
    check_store(out, [1])


def test_two_processes_do_not_pack_into_one_store(tmp_path, out):
    folder = write_images(tmp_path / "npz", [1])
    pack([folder], out, feature_size=SIZE)
    with open(out / FEATURES, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "is being packed by another process" in fails(pack, [folder], out, feature_size=SIZE)
    pack([folder], out, feature_size=SIZE)
    check_store(out, [1])


_LIMITED = """
import resource, sys
from mmnas.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


def test_a_disk_that_takes_no_more_is_one_line_and_packing_goes_on(tmp_path, out):
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "1.npz", **image_arrays(1, regions=100))  # 5 KB
    for image_id in range(2, 601):
        os.link(tmp_path / "npz" / "1.npz", tmp_path / "npz" / f"{image_id}.npz")
    folder, limit = tmp_path / "npz", 1000 * 1024
    arguments = [str(limit), "pack-features", str(folder), str(out), f"--feature-size={SIZE}"]
    done = subprocess.run([sys.executable, "-c", _LIMITED, *arguments], cwd=ROOT, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith(f"error: {out} cannot be written") and "Traceback" not in done.stderr
    _, added = pack([folder], out, feature_size=SIZE)
    assert 0 < added < 600
    assert verify(out).images == 600


def test_features_beyond_float16_are_named(tmp_path, out):
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "9.npz", **{**image_arrays(9), "x": image_arrays(9)["x"] + 70000})
    text = fails(pack, [tmp_path / "npz"], out, "float16", SIZE)
    assert f"{tmp_path}/npz/9.npz: a feature of 7000" in text and "--dtype float32" in text
    assert "--dtype 'float8' is unknown" in fails(pack, [tmp_path / "npz"], out, "float8", SIZE)


# The check


@pytest.fixture
def store(tmp_path, out):
    pack([write_images(tmp_path / "npz", range(1, 10))], out, feature_size=SIZE)
    return out


def test_a_turned_byte_is_found(store):
    x = image_arrays(4)["x"].T.tobytes()
    path = store / FEATURES
    path.write_bytes(path.read_bytes().replace(x, x[:-1] + bytes([x[-1] ^ 1])))
    assert "is damaged (wrong checksum of image 4 of 9); copy the store again" in fails(verify, store)


@pytest.mark.parametrize("name", [BOXES, INDEX, HEADER])
def test_a_turned_byte_of_any_other_file_is_found(store, name):
    content = bytearray((store / name).read_bytes())
    content[len(content) // 2] ^= 0x81
    (store / name).write_bytes(content)
    assert "is damaged" in fails(verify, store)


def test_damaged_images_are_counted(store):
    content = bytearray((store / BOXES).read_bytes())
    for row in (1, 6, 13):  # of images 1, 3 and 7
        content[16 * row] ^= 1
    (store / BOXES).write_bytes(content)
    assert "is damaged (wrong checksum of image 1 and 2 more of 9)" in fails(verify, store)


# The command


def test_the_command_packs_and_checks(tmp_path, capsys):
    folder, out = write_images(tmp_path / "npz", [1, 2]), str(tmp_path / "out.features")
    assert main(["pack-features", str(folder), out, f"--feature-size={SIZE}", "--dtype=float16"]) == 0
    said = capsys.readouterr().out
    assert f"{out}: 2 images, 5 regions, x of width {SIZE} in float16" in said
    assert "2 images packed now" in said and "images per second" in said
    assert main(["pack-features", "--verify", out]) == 0
    assert "2 images checked" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["out.features"], ["--verify", "npz", "out.features"], ["absent", "out.features"]]
)
def test_the_command_refuses_in_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(["pack-features", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out.features").exists()
