"""One's own data: image names and ids of any kind, what is read of each file, and what is refused."""

import json
import pickle

import numpy as np
import pytest

from mmnas.data import own
from mmnas.data.features import NpzFolders
from mmnas.data.own import OwnImage, OwnQuestions, label, own_image_id
from mmnas.errors import DataError, MissingData


def write(folder, name, entries):
    (folder / name).write_text(json.dumps(entries), encoding="utf-8")
    return folder


def question(number, **more):
    return {"image": f"{number}.jpg", "question": "what?", "answers": ["yes"], **more}


def test_an_image_is_known_by_the_number_in_its_name_or_else_by_its_name():
    assert own_image_id("12.jpg") == own_image_id("COCO_val2014_000000000012.jpg.npz") == 12
    assert own_image_id("cat.jpg") == own_image_id("cat.jpg.npz") == own_image_id("cat.npz")
    names = ["cat.jpg", "dog.jpg", "2024-05-01 at sea.png", "猫.jpg", "v1.2.jpg", "v1.3.jpg"]
    names += ["IMG.jpg", "IMG.1.npz", "IMG.2.JPG", "dog.heic"]
    assert len({own_image_id(name) for name in names}) == len(names)
    assert all(0 < own_image_id(name) < 2**63 for name in names)
    assert label(OwnImage("cat.jpg")) == "cat.jpg" and label(7) == label(np.int64(7)) == 7
    assert type(label(np.int64(7))) is int


def test_workers_that_receive_pickles_know_the_name():
    image = pickle.loads(pickle.dumps(OwnImage("photos/cat.jpg")))
    assert image == own_image_id("cat.jpg") and label(image) == "photos/cat.jpg"


def test_messages_call_an_image_by_its_name(tmp_path):
    with pytest.raises(DataError, match=r"no region features for image cat\.jpg;"):
        NpzFolders([tmp_path], 8)[OwnImage("cat.jpg")]
    assert (
        f"image {OwnImage('cat.jpg')}" == "image cat.jpg" and json.dumps({"id": OwnImage("9.jpg")}) == '{"id": 9}'
    )


def test_questions_of_every_split_in_their_order(tmp_path):
    entries = [question(1, split="mine"), question(2), question(3, answers=[], split="test"), question(4)]
    entries[1] |= {"answers": ["no", "yes", "no"]}
    files = OwnQuestions(write(tmp_path, "questions.json", entries))
    assert files.splits == ("mine", "train", "test") and files.answered == ("mine", "train")
    assert [each.question_id for each in files.read("questions", "train")] == [1, 3]
    first = files.read("annotations", "train")[0]
    assert first.answers == ("no", "yes", "no") and first.multiple_choice_answer == "no"
    assert files.read("questions", "test")[0].image_id == 3


def test_one_answer_stands_for_itself(tmp_path):
    entry = {"image": "a.jpg", "question": "what?", "answer": "a cat"}
    (annotation,) = OwnQuestions(write(tmp_path, "questions.json", [entry])).read("annotations", "train")
    assert annotation.answers == ("a cat",) and annotation.multiple_choice_answer == "a cat"


def test_any_number_of_captions_of_an_image(tmp_path):
    pairs = [("b.jpg", "one"), ("a.jpg", "two"), ("b.jpg", "three"), ("b.jpg", "four"), ("c.jpg", "five")]
    entries = [{"image": image, "caption": caption, "split": "val", "id": caption} for image, caption in pairs]
    captions = own.read_captions(write(tmp_path, "captions.json", entries), "val")
    assert list(map(label, captions.image_ids)) == ["a.jpg", "b.jpg", "c.jpg"]
    assert captions.texts == captions.ids == ["two", "one", "three", "four", "five"]
    assert captions.owners.tolist() == [0, 1, 1, 1, 2]
    assert captions.of(slice(1, 2)) == slice(1, 4)
    rest = captions.images(1, None)
    assert rest.texts == ["one", "three", "four", "five"] and rest.owners.tolist() == [0, 0, 0, 1]


def test_expressions_keep_ids_of_text_and_boxes(tmp_path):
    entry = {"id": "e1", "image": "a.jpg", "expression": "The cat, left", "bbox": [1, 2, 3.5, 4]}
    found = own.find_expressions(write(tmp_path, "expressions.json", [entry]), ["train", "val"])
    (expression,) = found["train"]
    assert expression.tokens == ["the", "cat", "left"] and expression.sent_id == "e1"
    assert expression.box == (1, 2, 4.5, 6)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([], "length >= 1"),
        ([{"question": "what?", "answers": ["yes"]}], "image"),
        ([question(1, anser="yes")], "anser"),
        ([question(1, image="")], "image"),
        ([question(1, answers="yes")], "answers"),
        ([question(1, answers=[])], "question 0 has no answers"),
        ([question(1, answers=[" "])], "question 0 has no answers"),
        ([question(1, id="a"), question(2, id="a", split="val")], "'a' occurs more than once"),
        ([question(1, id="a"), question(2, id=2)], "some ids are numbers and some are text"),
        ([question(1), question(1, image="001.jpg")], "'1.jpg' and '001.jpg' stand for one image"),
        ([question(1, image="a.png"), question(1, image="a.jpg")], "stand for one image"),
        ([question(1, id=2**70)], "id"),
        ([question(1, split="a\x1b[31m")], "split"),
    ],
)
def test_what_is_refused_in_one_line_with_the_file(tmp_path, entries, told):
    files = OwnQuestions(write(tmp_path, "questions.json", entries))
    with pytest.raises(DataError) as caught:
        files.read("annotations", files.splits[0])
    assert told in str(caught.value) and "questions.json" in str(caught.value)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_box_without_area(tmp_path):
    entry = {"image": "a.jpg", "expression": "it", "bbox": [1, 2, 0, 4]}
    with pytest.raises(DataError, match="expressions.json: the bbox .* has no area"):
        own.find_expressions(write(tmp_path, "expressions.json", [entry]), ["train"])


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(MissingData, match="captions.json not found: --DATASET=custom reads it"):
        own.read_captions(tmp_path, "train")
    files = OwnQuestions(write(tmp_path, "questions.json", [question(1)]))
    with pytest.raises(MissingData, match="has no split 'val'; it has 'train'"):
        files.read("questions", "val")
