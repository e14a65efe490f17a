"""The pictures of the demo world: where they lie, and that they show each thing where its box is."""

import numpy as np
import pytest
from PIL import Image
from reading_demo_world import hashes

from mmnas.demo.pictures import draw
from mmnas.demo.scenes import COLORS, SHAPES, Scene, Thing
from mmnas.demo.world import write_world


def test_every_scene_has_a_picture_under_both_names(world, scenes):
    for scene in scenes.values():
        path = world / "images" / scene.split / f"COCO_{scene.split}_{scene.image_id:012d}.jpg"
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (scene.width, scene.height))
        other = world / "images" / "flickr30k-images" / f"{1_000_000_000 + scene.image_id}.jpg"
        assert other.read_bytes() == path.read_bytes()
    assert len(list(world.glob("images/*/*.jpg"))) == 2 * len(scenes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_a_thing_fills_its_box_in_its_color(shape, color):
    box = (40.0, 30.0, 199.0, 179.0)
    scene = Scene(3, "train2014", 320, 240, (Thing("large", color, shape, box, (0.37, 0.44)),))
    with_it = np.asarray(draw(scene), int)  # (240, 320, 3)
    without = np.asarray(draw(Scene(3, "train2014", 320, 240, ())), int)
    wall = without.mean(axis=2)
    rows, columns = np.nonzero(with_it.max(axis=2) - wall > 40)  # brighter than the wall; shadows are darker
    assert rows.min() >= 30 and columns.min() >= 40 and rows.max() <= 179 and columns.max() <= 199
    changed = np.nonzero(np.abs(with_it - without).sum(axis=2) > 60)
    assert changed[0].min() <= 36 and changed[0].max() >= 173  # the tips are thin
    assert changed[1].min() <= 46 and changed[1].max() >= 193
    red, green, blue = with_it[rows, columns].mean(axis=0)
    found = {
        "red": red > 2 * max(green, blue),
        "green": green > 1.5 * max(red, blue),
        "blue": blue > 1.5 * max(red, green),
        "yellow": min(red, green) > 2 * blue,
        "white": min(red, green, blue) > 180,
    }
    assert [name for name, fits in found.items() if fits] == [color]


def test_a_world_of_an_earlier_version_gets_its_pictures(tmp_path):
    counts = write_world(tmp_path, 20, 1)
    before = hashes(tmp_path)
    for path in tmp_path.glob("images/*/*.jpg"):
        path.unlink()
    for folder in (*tmp_path.glob("images/*"), tmp_path / "images"):
        folder.rmdir()
    assert write_world(tmp_path, 20, 1) == counts
    assert hashes(tmp_path) == before
