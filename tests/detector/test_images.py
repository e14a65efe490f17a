"""Every kind of image file becomes pixels, or one line that says why not."""

import os

import numpy as np
import pytest
from PIL import Image

from mmnas.detector import images
from mmnas.detector.images import file_of, find_images, read_image
from mmnas.errors import DataError

RED = (200, 30, 40)


def picture(mode="RGB", color=RED, size=(30, 20)):
    return Image.new("RGB", size, color).convert(mode)


def test_color_is_blue_first(tmp_path):
    picture().save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert pixels.shape == (20, 30, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [40, 30, 200]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.jpg", "RGB"), ("a.jpg", "L"), ("a.jpg", "CMYK"), ("a.png", "P"), ("a.png", "RGBA"), ("a.png", "LA"),
        ("a.png", "1"), ("a.gif", "P"), ("a.bmp", "RGB"), ("a.webp", "RGB"), ("a.tif", "CMYK"), ("a.ppm", "RGB"),
    ],
)  # fmt: skip
def test_kinds(name, mode, tmp_path):
    picture(mode).save(tmp_path / name)
    expected = np.asarray(picture(mode).convert("RGB"))[10, 15, ::-1]
    assert read_image(tmp_path / name)[10, 15].tolist() == pytest.approx(expected.tolist(), abs=6)


def test_transparency_is_left_out(tmp_path):
    image = picture("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [40, 30, 200]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits(name, tmp_path):
    Image.fromarray(np.full((20, 30), 0x8040, np.uint16)).save(tmp_path / name)
    assert np.unique(read_image(tmp_path / name)).tolist() == [0x80]


def test_an_image_is_turned_upright(tmp_path):
    image = picture()
    image.paste((0, 0, 255), (0, 0, 15, 20))  # the left half is blue
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels = read_image(tmp_path / "a.jpg")
    assert pixels.shape == (30, 20, 3)
    assert pixels[3, 10, 0] > 200 and pixels[26, 10, 0] < 80  # blue is above


def test_of_an_animation_the_first_picture(tmp_path):
    picture().save(tmp_path / "a.gif", save_all=True, append_images=[picture(color=(0, 0, 255))])
    assert read_image(tmp_path / "a.gif")[0, 0, 2] > 150


def refused(path, match):
    with pytest.raises(DataError, match=match) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and str(caught.value).isprintable()


def test_a_bomb_is_refused_with_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 500)
    picture().save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "30 x 20")


def test_a_bomb_that_pillow_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    picture().save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "600 pixels")


def test_fractions_and_32_bits_are_refused(tmp_path):
    Image.fromarray(np.ones((20, 20), np.float32)).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "fractions")
    Image.fromarray(np.full((20, 20), 10**6, np.int32)).save(tmp_path / "b.tif")
    refused(tmp_path / "b.tif", "32 bits")


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    picture().save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-200])
    for name in ("empty.jpg", "text.jpg", "a.eps"):
        refused(tmp_path / name, "no image in one of the formats JPEG")
    refused(tmp_path / "cut.jpg", "[Tt]runcated")
    refused(tmp_path / "absent.jpg", "No such file")


def test_altered_images_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(5)
    for name in ("a.jpg", "a.png", "a.gif", "a.tif", "a.webp"):
        picture().save(tmp_path / name)
        content = bytearray((tmp_path / name).read_bytes())
        for _ in range(60):
            changed = content.copy()
            changed[rng.integers(len(content))] = rng.integers(256)
            (tmp_path / name).write_bytes(changed)
            try:
                assert read_image(tmp_path / name).ndim == 3
            except DataError as exception:
                assert str(exception).isprintable()


# Finding them


def test_folders_patterns_and_files(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("deep/b.jpg", "deep/er/a.PNG", "deep/.hidden.jpg", "deep/notes.txt", "c_1.jpg", "c_2.jpg"):
        (tmp_path / name).write_bytes(b"")
    found = find_images([tmp_path / "deep", f"{tmp_path}/c_*.jpg", tmp_path / "c_1.jpg", tmp_path / "no.jpg"])
    assert [path.name for path in found] == ["b.jpg", "a.PNG", "c_1.jpg", "c_2.jpg", "no.jpg"]


def test_no_images_and_two_of_one_name(tmp_path):
    with pytest.raises(DataError, match="no images in"):
        find_images([f"{tmp_path}/*.jpg"])
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="have one name"):
        find_images([tmp_path / "one", tmp_path / "two"])


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    refused(tmp_path / "a.jpg", "not a regular file")


def test_a_pattern_does_not_follow_links_that_lead_back(tmp_path):
    picture().save(tmp_path / "a.png")
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path)
    assert find_images([tmp_path / "**" / "*.png"]) == [tmp_path / "a.png"]
    with pytest.raises(DataError, match="is not a pattern"):
        find_images([tmp_path / "**png"])


def test_two_files_of_one_image_are_named(tmp_path):
    for name in ("a.npz", "a.jpg.npz"):
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"a\.jpg has the files .*a\.jpg\.npz and .*a\.npz: leave one of the two out"
    ):
        file_of(tmp_path, tmp_path / "a.jpg")
    (tmp_path / "a.npz").unlink()
    assert file_of(tmp_path, tmp_path / "a.jpg") == tmp_path / "a.jpg.npz"
    assert file_of(tmp_path, tmp_path / "b.jpg") is None
    (tmp_path / "shot.npz").touch()
    assert file_of(tmp_path, tmp_path / "shot.2") is None  # another image, not one of the ending ".2"
