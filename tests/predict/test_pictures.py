"""Pictures show what they are given, whatever the size of the image and the text."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from mmnas.predict import drawing
from mmnas.predict.pictures import draw_answers, draw_attention, draw_captions, draw_grounding, draw_images

SIZES = [(200, 150), (640, 480), (300, 1200), (1200, 150), (3000, 2000), (1, 1), (5000, 3)]
TEXTS = ["", "what color is the ball?", "why " * 400, "w" * 900, "naïve кошка Ελλάδα 日本", "a\x1b[31m\nb\u202e"]
LEFT, TOP = drawing.GAP, 2 * drawing.GAP + round(1.35 * drawing.TITLE)  # of an image under a title of one line


def gray(size=(400, 300)):
    return Image.new("RGB", size, (128, 128, 128))


def count(picture, color):
    return int((np.asarray(picture) == ImageColor.getrgb(color)).all(axis=-1).sum())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_picture_is_drawn_for_images_of_every_size(size):
    image, boxes = gray(size), np.array([[0, 0, size[0] - 1, size[1] - 1]] * 100, float)
    pictures = [
        draw_answers(image, "?", [("yes", 1.0)], boxes, np.full(100, 0.01)),
        draw_grounding(image, "it", boxes[:1], [0.5], reference=boxes[0]),
        draw_captions(image, "photo.jpg", [("a ball", 0.3)]),
        draw_images("a ball", [(image, "photo.jpg", 0.3)]),
    ]
    for picture in pictures:
        assert picture.mode == "RGB" and 300 < picture.width < 2000 and 60 < picture.height < 1700, picture.size


def test_an_image_that_is_not_at_hand_takes_no_memory_of_its_size():
    for size in [(999_999, 999_999), (999_999, 1)]:
        assert max(draw_grounding(size, "it", [[0, 0, *size]], [0.5]).size) < 2000


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:8]))
def test_every_text_is_drawn_and_fits(text):
    picture = draw_answers(gray(), text, [(text, 0.4)] * 5, [[0, 0, 9, 9]], [1.0])
    assert picture.size[0] < 1200 and picture.size[1] < 1000
    block = np.asarray(drawing.block(text, 120, drawing.TEXT, lines=3))
    assert block.shape[1] == 120 and block.shape[0] <= 3 * round(1.35 * drawing.TEXT)


def test_the_five_largest_weights_are_shown_and_the_rest_is_dark():
    boxes = [[40 * i, 40, 40 * i + 29, 79] for i in range(8)]
    weights = np.array([0.01, 0.3, 0.2, 0.02, 0.15, 0.15, 0.15, 0.02])
    picture = draw_answers(gray((360, 280)), "?", [("yes", 0.5)], boxes, weights)
    bright = []
    for x1, y1, x2, y2 in boxes:  # the image is twice as large in the picture
        value = picture.getpixel((LEFT + (x1 + x2), TOP + (y1 + y2)))[0]
        assert value == 128 or value < 64
        bright.append(value == 128)
    assert bright == [weight >= 0.15 for weight in weights]


def test_answers_without_regions_leave_the_image_as_it_is():
    picture = draw_answers(gray(), "?", [("yes", 0.5), ("no", 0)])
    assert picture.getpixel((LEFT + 5, TOP + 5)) == (128, 128, 128)
    assert not count(picture, drawing.ORANGE)


def test_a_bar_is_as_long_as_its_score():
    lengths = [count(drawing.bar("yes", score, 300), drawing.BLUE) for score in (0.0, 0.25, 0.5, 1.0, 7.0)]
    assert lengths[0] == 0 and lengths[3] == lengths[4] == 7 * 300
    assert lengths[2] == pytest.approx(2 * lengths[1], rel=0.02) and lengths[2] == pytest.approx(1050, rel=0.02)
    assert count(drawing.bar("yes", 0.5, 300, right=True), drawing.GREEN) == lengths[2]


def test_the_best_box_is_thick_and_the_next_four_are_thin():
    boxes = [[10 + 70 * i, 60, 60 + 70 * i, 110] for i in range(5)]
    best = draw_grounding(gray(), "it", boxes[:1], [0.9])
    assert count(best, drawing.ORANGE) > 5 * 4 * 50 and not count(best, drawing.BLUE)
    five = draw_grounding(gray(), "it", [*boxes, [0, 0, 1, 1]], [0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert count(five, drawing.ORANGE) == count(best, drawing.ORANGE)
    assert 4 * 2 * 4 * 60 < count(five, drawing.BLUE) < 4 * count(best, drawing.ORANGE)
    assert not count(five, drawing.GREEN)
    assert count(draw_grounding(gray(), "it", boxes[:1], [0.9], reference=boxes[1]), drawing.GREEN)


def test_labels_of_boxes_at_one_place_do_not_cover_each_other():
    drawn = [((100.0, 100.0, 300.0, 250.0), f"0.{i}", color, 2) for i, color in enumerate(["#111111", "#222222"])]
    picture = gray()
    drawing.draw_boxes(picture, drawn)
    alone = gray()
    drawing.draw_boxes(alone, drawn[1:])
    inside = [np.asarray(each)[:99] for each in (picture, alone)]
    assert count(inside[0], "#222222") == pytest.approx(count(inside[1], "#222222"), rel=0.1)


def test_a_contact_sheet_has_a_place_for_an_image_that_is_not_at_hand():
    picture = draw_images("a ball", [(gray(), "a.jpg", 0.9), (None, "b.jpg", 0.1)], right=[1])
    assert count(picture, drawing.BLUE) > 6 * 170 and 0 < count(picture, drawing.GREEN) < 7 * 30
    assert count(picture, "#808080") > 10_000


def test_a_map_of_attention_is_darkest_where_it_is_largest():
    weights = np.full((2, 3, 4), 0.1)
    weights[:, 1, 2] = 0.7
    picture = draw_attention(weights, "decoder.0", ["a", "b", "c"], ["d", "e", "f", "g"])
    assert count(picture, drawing.BLUE) > 3 * 20 * 20
    one = draw_attention(weights[:1], "decoder.0", ["a", "b", "c"], ["d", "e", "f", "g"])
    assert one.height < picture.height  # a single head is its own mean
    large = draw_attention(np.full((8, 100, 100), 0.01), "decoder.0", ["9"] * 100, ["9"] * 100)
    assert large.width < 1000 and large.height < 1400
