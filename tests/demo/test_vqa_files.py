"""The demo world's VQA files: their keys, and that the answers agree with the scenes."""

import re
from collections import Counter, defaultdict

from reading_demo_world import annotations, fitting, load, questions

from mmnas.demo.questions import ask
from mmnas.demo.scenes import COLORS, SHAPES, SIZES, Scene, draw_scenes

TRAIN, VAL, TEST = "train2014", "val2014", "test2015"


def test_vqa_files_have_the_published_keys(world):
    asked = load(world / "vqa" / "v2_OpenEnded_mscoco_val2014_questions.json")
    assert set(asked) == {"info", "task_type", "data_type", "data_subtype", "license", "questions"}
    noted = load(world / "vqa" / "v2_mscoco_val2014_annotations.json")
    assert set(noted) == {"info", "data_type", "data_subtype", "license", "annotations"}
    row = noted["annotations"][0]
    wanted = "question_type multiple_choice_answer answers image_id answer_type question_id"
    assert set(row) == set(wanted.split())
    assert [answer["answer_id"] for answer in row["answers"]] == list(range(1, 11))
    assert set(row["answers"][0]) == {"answer", "answer_confidence", "answer_id"}
    genome = annotations(world, "VG")[0]
    assert set(genome) == set(wanted.split()) - {"question_type", "answer_type"}


def test_test_answers_are_written_nowhere(world):
    assert {path.name for path in (world / "vqa").glob("*annotations*")} == {
        "v2_mscoco_train2014_annotations.json",
        "v2_mscoco_val2014_annotations.json",
        "VG_annotations.json",
    }
    test, dev = (questions(world, f"v2_OpenEnded_mscoco_{split}") for split in (TEST, "test-dev2015"))
    assert 0 < len(dev) < len(test) and dev.items() <= test.items()


def test_every_question_has_its_annotation_and_a_true_majority(world):
    for split in (TRAIN, VAL):
        asked = questions(world, f"v2_OpenEnded_mscoco_{split}")
        noted = annotations(world, f"v2_mscoco_{split}")
        assert [row["question_id"] for row in noted] == list(asked)
        for row in noted:
            question = asked[row["question_id"]]
            assert row["image_id"] == question["image_id"] == row["question_id"] // 1000
            assert question["question"].lower().startswith(row["question_type"])
            answers = Counter(answer["answer"] for answer in row["answers"])
            assert answers[row["multiple_choice_answer"]] >= 7 and answers.total() == 10
    assert any(len({answer["answer"] for answer in row["answers"]}) > 1 for row in noted)


def test_questions_of_an_image_differ(scenes):
    for scene in scenes.values():
        texts = [question.text for question in ask(scene, 24, 7, "questions")]
        assert len(texts) == len(set(texts)) == 24


def test_answers_agree_with_the_scenes(world, scenes):
    """Recount existence, counts, attributes, superlatives and sides from the scenes by other means."""
    checked = Counter()
    asked = questions(world, f"v2_OpenEnded_mscoco_{TRAIN}")
    for row in annotations(world, f"v2_mscoco_{TRAIN}"):
        text, scene = asked[row["question_id"]]["question"], scenes[row["image_id"]]
        expected = answer_by_hand(text, scene)
        if expected is not None:
            assert row["multiple_choice_answer"] == expected, text
            checked[row["question_type"]] += 1
    assert len(checked) >= 12 and checked.total() > 0.8 * len(asked)


RANKED = {
    "leftmost": lambda thing: thing.box[0] + thing.box[2],
    "rightmost": lambda thing: -thing.box[0] - thing.box[2],
    "highest": lambda thing: thing.box[1] + thing.box[3],
    "lowest": lambda thing: -thing.box[1] - thing.box[3],
    "largest": lambda thing: -thing.area,
    "smallest": lambda thing: thing.area,
}


OFFSETS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
HALVES = {"left": (0, -1), "right": (0, 1), "upper": (1, -1), "lower": (1, 1)}


def answer_by_hand(text: str, scene: Scene) -> str | None:
    things = fitting(text, scene)
    asked_for = "color" if "color" in text else "size" if "size" in text or "How big" in text else "shape"
    ranked = [word for word in RANKED if word in text]
    if text.startswith(("Is there a", "Do you see", "Does the picture")):
        return "yes" if things else "no"
    if text.startswith(("How many", "What number")):
        return str(len(things))
    relation = r"(?:Is|Can) the (.*?) (?:be found )?(left of|right of|above|below) the (.*)\?"
    if found := re.fullmatch(relation, text):
        (one,), (other,) = fitting(found[1], scene), fitting(found[3], scene)
        axis, sign = OFFSETS[found[2]]
        return "yes" if sign * (one.center[axis] - other.center[axis]) > 0 else "no"
    half = r"Is the (.*) (?:on|in) the (left|right|upper|lower) (?:side|half)(?: of.*)?\?"
    if found := re.fullmatch(half, text):
        (one,), (axis, sign) = fitting(found[1], scene), HALVES[found[2]]
        return "yes" if sign * (one.center[axis] - 0.5) > 0 else "no"
    if ranked:
        return getattr(min(scene.things, key=RANKED[ranked[0]]), asked_for)
    if re.match(r"(What|Which|How).*(left of|right of|above|below|nearest|closest)", text):
        return None
    if text.startswith("Is "):  # the last word is the colour in question
        (one,) = fitting(text.rsplit(" ", 1)[0], scene)
        return "yes" if one.color == text.rsplit(" ", 1)[1].rstrip("?") else "no"
    (one,) = things
    return getattr(one, asked_for)


def test_guessing_by_the_question_type_fails_and_every_answer_is_frequent():
    answers = defaultdict(Counter)
    for scene in draw_scenes(150, 0):
        for question in ask(scene, 24, 0, "questions"):
            answers[question.question_type][question.answer] += 1
    total = sum(by_type.total() for by_type in answers.values())
    assert sum(max(by_type.values()) for by_type in answers.values()) / total < 0.45
    for question_type in ("is there a", "is the"):
        assert 0.4 < answers[question_type]["yes"] / answers[question_type].total() < 0.6
    frequent = sum(answers.values(), Counter())
    assert set(frequent) == {"yes", "no", "1", "2", "3", "4", *COLORS, *SHAPES, *SIZES}
    assert min(frequent.values()) > 8


def test_what_ignores_the_image_stays_near_the_prior():
    """A lookup of the whole question, else of its type, learnt on train: the best that text alone allows."""
    asked = {"train2014": [], "val2014": []}
    for scene in draw_scenes(400, 0):
        if scene.split in asked:
            asked[scene.split] += ask(scene, 24, 0, "questions")
    by_text, by_type = defaultdict(Counter), defaultdict(Counter)
    for question in asked["train2014"]:
        by_text[question.text][question.answer] += 1
        by_type[question.question_type][question.answer] += 1

    def share(pick) -> float:
        hits = [question.answer == pick(question).most_common(1)[0][0] for question in asked["val2014"]]
        return sum(hits) / len(hits)

    prior = share(lambda question: by_type[question.question_type])
    blind = share(lambda question: by_text.get(question.text) or by_type[question.question_type])
    assert prior < 0.5
    assert blind < prior + 0.08
