"""Questions about a scene and their correct answers, balanced so that guessing by question type does not pay.

KINDS lists the kinds of questions and their wordings, separated by slashes; the bar ends the question type. The
function of a kind draws what a question is about; where the scene gives no clear answer, it returns a slot of None.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmnas.demo import names
from mmnas.demo.scenes import COLORS, SHAPES, Scene, child, pick

_TRIES = 12  # attempts at a new question of one kind, before another kind has its turn
_OFF_CENTER = 0.1  # fraction of the canvas by which a thing must be inside one half
_SIDE_WORDS = ("on the left side", "on the right side", "in the upper half", "in the lower half")
_SIDES = dict(zip(_SIDE_WORDS, names.SIDES.values(), strict=True))


class Question(NamedTuple):
    """A question, its type (its first words in lower case) and its answer."""

    text: str
    question_type: str
    answer: str

    @property
    def answer_type(self) -> str:
        """One of "yes/no", "number" and "other", as in VQA v2."""
        return "yes/no" if self.answer in ("yes", "no") else "number" if self.answer.isdigit() else "other"


# What fills the slots of a wording, and the answer.
Slots = dict[str, object]


class Kind(NamedTuple):
    """A kind of question: how often it is asked, what draws it, and the attribute that it asks for, if any."""

    weight: float
    draw: Callable[[Scene, np.random.Generator, str], Slots]
    asked: str = ""


def ask(scene: Scene, count: int, seed: int, purpose: str) -> list[Question]:
    """Return `count` different questions about a scene, or fewer if it does not offer as many."""
    rng, kinds = child(seed, purpose, scene.image_id), list(KINDS)
    weights = np.array([kind.weight for kind in kinds])
    questions: dict[str, Question] = {}
    for index in rng.choice(len(kinds), size=4 * count, p=weights / weights.sum()):
        if len(questions) == count:
            break
        for _ in range(_TRIES):
            if (question := _ask_one(kinds[index], scene, rng)) and question.text not in questions:
                questions[question.text] = question
                break
    return list(questions.values())


def _ask_one(kind: Kind, scene: Scene, rng: np.random.Generator) -> Question | None:
    slots = kind.draw(scene, rng, kind.asked)
    if None in slots.values():
        return None
    first_words, rest = pick(KINDS[kind].split(" / "), rng).format(**slots).split("|")
    return Question(first_words + rest, first_words.lower(), str(slots["answer"]))


def _yes_or_no(amount: float, margin: float = 0) -> str | None:
    """Return whether `amount` is positive; None where it is closer to zero than `margin`."""
    return None if abs(amount) < margin else "yes" if amount > 0 else "no"


def _existence(scene: Scene, rng: np.random.Generator, _: str) -> Slots:
    """Draw yes as often as no, and half of the time a color and a shape that are both in the picture."""
    wanted, seen = rng.random(2) < 0.5
    colors = sorted({thing.color for thing in scene.things}) if seen else COLORS
    shapes = sorted({thing.shape for thing in scene.things}) if seen else SHAPES
    pairs = [f"{color} {shape}" for color in colors for shape in shapes]
    single = [*(f"{color} object" for color in COLORS), *SHAPES]
    candidates = pairs if rng.random() < 0.25 else single
    fitting = [name for name in candidates if bool(names.having(name, scene.things)) == wanted]
    return {"name": pick(fitting, rng) if fitting else None, "answer": _yes_or_no(wanted)}


def _attribute(scene: Scene, rng: np.random.Generator, asked: str) -> Slots:
    """Return an attribute of a thing that its other attributes identify."""
    thing = pick(scene.things, rng)
    return {"name": names.unique_name(scene, thing, rng, hidden=asked), "answer": getattr(thing, asked)}


def _color_check(scene: Scene, rng: np.random.Generator, _: str) -> Slots:
    thing = pick(scene.things, rng)
    name = names.unique_name(scene, thing, rng, hidden="color")
    truth = rng.random() < 0.5
    color = thing.color if truth else pick([color for color in COLORS if color != thing.color], rng)
    return {"name": name, "color": color, "answer": _yes_or_no(truth)}


def _count(scene: Scene, rng: np.random.Generator, _: str) -> Slots:
    """Count a color, a shape or a size: 1 to 4, each as likely as the scene allows."""
    by_count: dict[int, list[str]] = {}
    for name in dict.fromkeys(name for thing in scene.things for name in names.all_names(thing)):
        by_count.setdefault(len(names.having(name, scene.things)), []).append(name)
    count = pick([count for count in sorted(by_count) if count <= 4], rng)
    return {"name": pick(by_count[count], rng), "answer": count}


def _relation(scene: Scene, rng: np.random.Generator, _: str) -> Slots:
    thing = pick(scene.things, rng)
    other = names.another(scene, thing, rng)
    name, other_name = (names.unique_name(scene, one, rng) for one in (thing, other))
    relation = pick(tuple(names.DIRECTIONS), rng)
    gap = names.further(thing.center, other.center, names.DIRECTIONS[relation])
    answer = _yes_or_no(gap, names.CLEARLY)
    return {"name": name, "other": other_name, "relation": relation, "answer": answer}


def _side(scene: Scene, rng: np.random.Generator, _: str) -> Slots:
    thing = pick(scene.things, rng)
    name = names.unique_name(scene, thing, rng)
    side = pick(tuple(_SIDES), rng)
    answer = _yes_or_no(names.further(thing.center, names.MIDDLE, _SIDES[side]), _OFF_CENTER)
    return {"name": name, "side": side, "answer": answer}


def _superlative(scene: Scene, rng: np.random.Generator, asked: str) -> Slots:
    """Return an attribute of the leftmost, highest, largest, ... thing."""
    word = pick(tuple(names.SUPERLATIVES), rng)
    thing = names.clear_winner(scene.things, names.SUPERLATIVES[word])
    return {"superlative": word, "answer": getattr(thing, asked, None)}


def _nearest(scene: Scene, rng: np.random.Generator, asked: str) -> Slots:
    """Return an attribute of the thing nearest to a named one."""
    other = pick(scene.things, rng)
    name = names.unique_name(scene, other, rng)
    return {"name": name, "answer": getattr(names.nearest(scene.things, other), asked, None)}


def _neighbor(scene: Scene, rng: np.random.Generator, asked: str) -> Slots:
    """Return an attribute of the only thing in some direction of a named one; it must clearly lie there."""
    other = pick(scene.things, rng)
    name = names.unique_name(scene, other, rng)
    relation = pick(tuple(names.DIRECTIONS), rng)
    gaps = names.gaps(scene.things, other.center, names.DIRECTIONS[relation])
    beyond = [thing for thing, gap in gaps.items() if gap > 0]
    clear = len(beyond) == 1 and gaps[beyond[0]] >= names.CLEARLY
    return {"name": name, "relation": relation, "answer": getattr(beyond[0], asked) if clear else None}


KINDS = {
    Kind(0.22, _existence): "Is there a| {name} in the picture? / Is there a| {name}? / Do you see a| {name}? / "
    "Does the picture show a| {name}?",
    Kind(0.07, _color_check): "Is the| {name} {color}? / Is the color of the| {name} {color}?",
    Kind(0.11, _attribute, "color"): "What color is the| {name}? / What is the color of the| {name}? / "
    "Which color does the| {name} have?",
    Kind(0.10, _attribute, "shape"): "What shape is the| {name}? / What kind of thing is the| {name}?",
    Kind(0.08, _attribute, "size"): "What size is the| {name}? / How big is the| {name}?",
    Kind(0.10, _count): "How many| {name}s are there? / How many| {name}s are in the picture? / "
    "What number of| {name}s is shown?",
    Kind(0.07, _relation): "Is the| {name} {relation} the {other}? / "
    "Can the| {name} be found {relation} the {other}?",
    Kind(0.09, _side): "Is the| {name} {side} of the picture? / Is the| {name} {side}?",
    Kind(0.05, _superlative, "color"): "What color is the| {superlative} object?",
    Kind(0.05, _superlative, "shape"): "What shape is the| {superlative} object?",
    Kind(0.02, _nearest, "color"): "What color is the object nearest to the| {name}?",
    Kind(0.02, _nearest, "shape"): "What is nearest to the| {name}? / Which object is closest to the| {name}?",
    Kind(0.02, _neighbor, "shape"): "What is {relation} the| {name}?",
}
