import copy
import json

import pytest

from mmnas.data.sources import find_feature_folders
from mmnas.data.vqa_json import (
    SPLITS,
    Annotation,
    Question,
    answer_vocabulary,
    check_pairs,
    read_annotations,
    read_questions,
    soft_targets,
)
from mmnas.errors import ConfigError, DataError
from tests.places import annotation_places, question_places, require_annotations, require_questions

HEADER = {
    "info": {"description": "", "url": "http://visualqa.org", "version": "2.0", "year": 2017},
    "license": {"url": "", "name": ""},
    "data_type": "mscoco",
    "data_subtype": "val2014",
}
QUESTIONS = [
    {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
    {"image_id": 393225, "question": "Is this a café?", "question_id": 393225000},
]


def annotation_entry(question_id, image_id, usual, answers):
    return {
        "question_type": "where is",
        "multiple_choice_answer": usual,
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": number}
            for number, answer in enumerate(answers, start=1)
        ],
        "image_id": image_id,
        "answer_type": "other",
        "question_id": question_id,
    }


ANNOTATIONS = [
    annotation_entry(262148000, 262148, "down", ["down"] * 6 + ["at table"] * 4),
    annotation_entry(393225000, 393225, "yes", ["yes"] * 10),
]


@pytest.fixture
def write(tmp_path):
    def write(key, entries):
        path = tmp_path / f"{key}.json"
        path.write_text(json.dumps({**HEADER, key: entries}), encoding="utf-8")
        return path

    return write


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def test_both_layouts_are_found_the_first_preferred(tmp_path):
    later = touch(tmp_path / "vqa/annotations/v2_OpenEnded_mscoco_train2014_questions.json")
    assert require_questions(tmp_path, "train") == later
    first = touch(tmp_path / "vqa/v2_OpenEnded_mscoco_train2014_questions.json")
    assert require_questions(tmp_path, "train") == first
    annotations = touch(tmp_path / "vqa/annotations/v2_mscoco_val2014_annotations.json")
    assert require_annotations(tmp_path, "val") == annotations
    test = touch(tmp_path / "vqa/v2_OpenEnded_mscoco_test2015_questions.json")
    assert require_questions(str(tmp_path), "test") == test


def test_visual_genome_also_lies_in_datasets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "datasets/vqa/VG_questions.json")
    touch(tmp_path / "datasets/vqa/VG_annotations.json")
    assert require_questions("data", "vg").resolve() == tmp_path / "datasets/vqa/VG_questions.json"
    assert require_annotations("data", "vg").resolve() == tmp_path / "datasets/vqa/VG_annotations.json"
    near = touch(tmp_path / "data/vqa/VG_questions.json")
    assert require_questions("data", "vg").resolve() == near


def test_missing_files_name_every_place(tmp_path):
    assert [len(question_places(tmp_path, split)) for split in SPLITS] == [2, 2, 2, 3]
    assert [len(annotation_places(tmp_path, split)) for split in SPLITS] == [2, 2, 0, 3]
    with pytest.raises(DataError, match="questions of val not found") as error:
        require_questions(tmp_path, "val")
    name = "v2_OpenEnded_mscoco_val2014_questions.json"
    assert str(tmp_path / "vqa" / name) in str(error.value)
    assert str(tmp_path / "vqa/annotations" / name) in str(error.value)
    with pytest.raises(DataError, match="datasets/vqa/VG_annotations.json"):
        require_annotations(tmp_path, "vg")
    with pytest.raises(DataError, match="test has no public annotations"):
        require_annotations(tmp_path, "test")


def test_an_unknown_split_lists_the_known_ones(tmp_path):
    for find in (question_places, annotation_places, require_questions, require_annotations):
        with pytest.raises(ConfigError, match="VQA split 'dev' is unknown; valid ones: train, val, test, vg"):
            find(tmp_path, "dev")


def test_feature_folders_come_from_one_place_in_order_of_preference(tmp_path):
    with pytest.raises(DataError, match="coco_extract, .*bua-r101-max100"):
        find_feature_folders(tmp_path)
    later = tmp_path / "vqa/bua-r101-max100"
    for name in ("val2014", "train2014", "elsewhere"):
        touch(later / name / "9.npz")
    assert find_feature_folders(tmp_path) == [later / "train2014", later / "val2014"]
    (tmp_path / "coco_extract/test2015").mkdir(parents=True)
    assert find_feature_folders(tmp_path)[0].parent == later
    touch(tmp_path / "coco_extract/test2015/9.npz")
    assert find_feature_folders(tmp_path) == [tmp_path / "coco_extract/test2015"]
    assert find_feature_folders(tmp_path, later) == [later / "train2014", later / "val2014"]
    with pytest.raises(DataError, match="folders train2014, val2014, test2015 of .*nowhere; or name"):
        find_feature_folders(tmp_path, tmp_path / "nowhere")


def test_questions_are_read_in_order(write):
    assert read_questions(write("questions", QUESTIONS)) == [
        Question(262148000, 262148, "Where is he looking?"),
        Question(393225000, 393225, "Is this a café?"),
    ]


def test_annotations_are_read_in_order_and_share_their_answers(write):
    first, second = read_annotations(write("annotations", ANNOTATIONS))
    answers = ("down",) * 6 + ("at table",) * 4
    assert first == Annotation(262148000, 262148, "where is", "other", "down", answers)
    assert second.multiple_choice_answer == "yes"
    assert first.answers[6] is first.answers[9]
    assert first.question_type is second.question_type


def test_keys_that_other_releases_lack(write):
    entries = copy.deepcopy(ANNOTATIONS)
    entries[0]["answers"] = [{"answer": answer} for answer in ("b", "a", "c", "c", "a")]
    for entry in entries:
        for key in ("multiple_choice_answer", "question_type", "answer_type"):
            del entry[key]
    first, second = read_annotations(write("annotations", entries))
    assert first == Annotation(262148000, 262148, "", "", "a", ("b", "a", "c", "c", "a"))
    assert second.multiple_choice_answer == "yes"


def test_a_damaged_or_swapped_file_is_named(tmp_path, write):
    with pytest.raises(DataError, match=r"VQA questions file not found: .*absent\.json"):
        read_questions(tmp_path / "absent.json")
    path = write("questions", QUESTIONS)
    with pytest.raises(DataError, match=r"questions\.json: .*missing required field annotations"):
        read_annotations(path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"VQA questions file is not valid JSON: .*questions\.json, line 1"):
        read_questions(path)
    for content, message in (
        (QUESTIONS, "expected object, got array"),
        ({"questions": {}}, "questions: expected array, got object"),
        ({"questions": []}, "questions: expected array of length >= 1"),
        ("questions", "expected object, got str"),
        (None, "expected object, got null"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=rf"questions\.json: (?i:{message})$"):
            read_questions(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question_id": "7"}, r"questions\[1\]\.question_id: expected int, got str"),
        ({"question_id": True}, r"questions\[1\]\.question_id: expected int, got bool"),
        ({"question_id": 1.0}, r"questions\[1\]\.question_id: expected int, got float"),
        ({"question_id": 2**63}, r"questions\[1\]\.question_id: expected int <= 9223372036854775807"),
        ({"question_id": -(2**80)}, r"questions\[1\]\.question_id: expected int >= -9223372036854775807"),
        ({"question_id": 262148000}, r"questions\[1\]\.question_id: 262148000 occurs a second time"),
        ({"image_id": None}, r"questions\[1\]\.image_id: expected int, got null"),
        ({"question": ["Is"]}, r"questions\[1\]\.question: expected str, got array"),
        ({"question": None}, r"questions\[1\]\.question: expected str, got null"),
    ],
)
def test_a_faulty_question_is_named(write, change, message):
    path = write("questions", [QUESTIONS[0], {**QUESTIONS[1], **change}])
    with pytest.raises(DataError, match=message) as error:
        read_questions(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("checked", [0, 1 << 25])
def test_a_key_that_an_entry_holds_twice_is_named_however_large_the_file(write, monkeypatch, checked):
    monkeypatch.setattr("mmnas.files.LARGEST_CHECKED", checked)
    path = write("questions", [QUESTIONS[0], {**QUESTIONS[1], "question": 'image_id "image_id" ?'}])
    assert read_questions(path)[1].text == 'image_id "image_id" ?'
    path.write_text(path.read_text().replace('"image_id": 393225', '"image_id": 1, "image_id": 393225'))
    with pytest.raises(DataError, match="holds the key '?image_id'? twice") as error:
        read_questions(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("key", ["question_id", "image_id", "question"])
def test_a_question_without_a_key_is_named(write, key):
    entry = {name: value for name, value in QUESTIONS[1].items() if name != key}
    with pytest.raises(DataError, match=rf"questions\[1\]: object missing required field {key}"):
        read_questions(write("questions", [QUESTIONS[0], entry]))


def test_a_question_that_is_no_object_is_named(write):
    with pytest.raises(DataError, match=r"questions\[0\]: expected object, got str"):
        read_questions(write("questions", ["Where"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": []}, ".answers: expected array of length >= 1"),
        ({"answers": "yes"}, ".answers: expected array, got str"),
        ({"answers": ["yes"]}, ".answers[0]: expected object, got str"),
        ({"answers": [{"answer_id": 1}]}, ".answers[0]: object missing required field answer"),
        ({"answers": [{"answer": 2}]}, ".answers[0].answer: expected str, got int"),
        ({"multiple_choice_answer": 2}, ".multiple_choice_answer: expected str, got int"),
        ({"multiple_choice_answer": None}, ".multiple_choice_answer: expected str, got null"),
        ({"question_type": None}, ".question_type: expected str, got null"),
        ({"answer_type": 0}, ".answer_type: expected str, got int"),
        ({"question_id": 262148000}, ".question_id: 262148000 occurs a second time"),
    ],
)
def test_a_faulty_annotation_is_named(write, change, message):
    path = write("annotations", [ANNOTATIONS[0], {**ANNOTATIONS[1], **change}])
    with pytest.raises(DataError) as error:
        read_annotations(path)
    assert f"{path}: annotations[1]{message}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["question_id", "image_id", "answers"])
def test_an_annotation_without_a_key_is_named(write, key):
    entry = {name: value for name, value in ANNOTATIONS[0].items() if name != key}
    with pytest.raises(DataError, match=rf"annotations\[0\]: object missing required field {key}"):
        read_annotations(write("annotations", [entry]))


def test_questions_and_annotations_must_fit_each_other():
    questions = [Question(number, 10, "") for number in (1, 2, 3)]
    annotations = [Annotation(number, 10, "", "", "yes", ("yes",)) for number in (3, 2, 1)]
    check_pairs(questions, annotations, "q.json", "a.json")
    with pytest.raises(DataError, match=r"question 1 is in the questions file only \(2 such in all\): q"):
        check_pairs(questions, annotations[:1], "q.json", "a.json")
    with pytest.raises(DataError, match=r"question 3 is in the annotations file only \(1 such in all\)"):
        check_pairs(questions[:2], annotations, "q.json", "a.json")
    moved = [Question(number, 10 if number == 1 else 11, "") for number in (1, 2, 3)]
    with pytest.raises(DataError, match=r"question 2 is about another image .*\(2 such in all\).* a.json"):
        check_pairs(moved, annotations, "q.json", "a.json")


def usual(answers):
    return [Annotation(n, 0, "", "", answer, (answer,)) for n, answer in enumerate(answers)]


def test_the_vocabulary_keeps_what_occurs_more_than_eight_times():
    answers = ["rare"] * 8 + ["Two"] * 5 + ["red"] * 9 + ["2"] * 4
    assert answer_vocabulary(usual(answers)) == (["2", "red"], 8 / 26)
    assert answer_vocabulary(usual(answers), min_count=7) == (["rare", "2", "red"], 0)


def test_soft_targets_by_the_number_of_annotators():
    index = {"1": 1, "2": 2, "3": 3, "4": 4}
    answers = ["one"] + ["2"] * 2 + ["3"] * 3 + ["4"] * 4
    assert soft_targets(answers, index) == {1: 0.3, 2: 0.6, 3: 0.9, 4: 1.0}


def test_answers_equal_once_normalised_add_up_and_unknown_ones_score_nothing():
    answers = ["two", "2", "Two."] + ["unknown"] * 7
    assert soft_targets(answers, {"2": 5}) == {5: 0.9}
    assert soft_targets(["unknown"] * 10, {"2": 5}) == {}
    assert soft_targets(["yes"] * 10, {"yes": 0}) == {0: 1.0}
