"""Questions about a scene and their right answers, balanced so that guessing by the question's type fails.

A kind of question is a row of KINDS: how often it is asked, a function that draws what it is about and
its answer, and its wordings. In a wording the bar ends the question type ("what color is the").
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmnas.demo import names
from mmnas.demo.names import Name, Superlative
from mmnas.demo.scenes import COLORS, SHAPES, Scene, Thing, child, pick

Slots = dict[str, str]
Draw = Callable[[Scene, np.random.Generator], Slots | None]

_TRIES = 12  # at a new question of one kind, before another kind has its turn
_OFF_CENTRE = 0.1  # share of the canvas by which a thing must be in one half
_SIDES = {
    "on the left side": names.SIDES["left"],
    "on the right side": names.SIDES["right"],
    "in the upper half": names.SIDES["top"],
    "in the lower half": names.SIDES["bottom"],
}
_SUPERLATIVES: dict[str, Superlative] = {**names.OF_PLACE, **names.OF_SIZE}


@dataclass(frozen=True)
class Asked:
    """A question, its type (its first words), its answer and that answer's type."""

    text: str
    question_type: str
    answer: str
    answer_type: str


@dataclass(frozen=True)
class Kind:
    """One kind of question and its share of all questions."""

    share: float
    answer_type: str
    draw: Draw
    wordings: tuple[str, ...]


def ask(scene: Scene, count: int, seed: int, purpose: str) -> list[Asked]:
    """Return `count` different questions about a scene, or somewhat fewer where it offers no more."""
    rng = child(seed, purpose, scene.image_id)
    shares = np.array([kind.share for kind in KINDS])
    asked: dict[str, Asked] = {}
    for index in rng.choice(len(KINDS), size=4 * count, p=shares / shares.sum()):
        if len(asked) == count:
            break
        for _ in range(_TRIES):
            question = _ask_one(KINDS[index], scene, rng)
            if question is not None and question.text not in asked:
                asked[question.text] = question
                break
    return list(asked.values())


def _ask_one(kind: Kind, scene: Scene, rng: np.random.Generator) -> Asked | None:
    slots = kind.draw(scene, rng)
    if slots is None:
        return None
    first_words, rest = pick(kind.wordings, rng).format(**slots).split("|")
    return Asked(first_words + rest, first_words.lower(), slots["answer"], kind.answer_type)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _existence(scene: Scene, rng: np.random.Generator) -> Slots | None:
    """Is there such a thing? No is as likely as yes, and may be as near as a red cube and a blue ball."""
    wanted = rng.random() < 0.5
    near = rng.random() < 0.5
    colors, shapes = (_seen("color", scene), _seen("shape", scene)) if near else (COLORS, SHAPES)
    pairs = [Name(color=color, shape=shape) for color in colors for shape in shapes]
    alone = [Name(color=color) for color in COLORS] + [Name(shape=shape) for shape in SHAPES]
    candidates = pairs if rng.random() < 0.25 else alone
    fitting = [name for name in candidates if bool(name.among(scene.things)) == wanted]
    return {"name": str(pick(fitting, rng)), "answer": _yes(wanted)} if fitting else None


def _seen(attribute: str, scene: Scene) -> list[str]:
    return sorted({getattr(thing, attribute) for thing in scene.things})


def _attribute(attribute: str) -> Draw:
    """Return how to ask for one attribute of a thing that the others name."""

    def draw(scene: Scene, rng: np.random.Generator) -> Slots | None:
        thing = pick(scene.things, rng)
        name = names.unique_name(scene, thing, rng, hidden=attribute)
        return {"name": str(name), "answer": getattr(thing, attribute)} if name else None

    return draw


def _color_check(scene: Scene, rng: np.random.Generator) -> Slots | None:
    thing = pick(scene.things, rng)
    name = names.unique_name(scene, thing, rng, hidden="color")
    truth = rng.random() < 0.5
    color = thing.color if truth else pick([color for color in COLORS if color != thing.color], rng)
    return {"name": str(name), "color": color, "answer": _yes(truth)} if name else None


def _count(scene: Scene, rng: np.random.Generator) -> Slots | None:
    """How many of a colour, a shape or a size: 1 to 4, each as likely as the scene allows."""
    by_count: dict[int, list[Name]] = {}
    for name in {name: None for thing in scene.things for name in names.all_names(thing)}:
        by_count.setdefault(len(name.among(scene.things)), []).append(name)
    wanted = pick([count for count in sorted(by_count) if count <= 4], rng)
    return {"names": pick(by_count[wanted], rng).plural, "answer": str(wanted)}


def _relation(scene: Scene, rng: np.random.Generator) -> Slots | None:
    thing = pick(scene.things, rng)
    other = names.another(scene, thing, rng)
    name, other_name = (names.unique_name(scene, one, rng) for one in (thing, other))
    relation = pick(tuple(names.DIRECTIONS), rng)
    gap = names.further(thing, other, names.DIRECTIONS[relation])
    if not (name and other_name and abs(gap) >= names.CLEARLY):
        return None
    return {"name": str(name), "other": str(other_name), "relation": relation, "answer": _yes(gap > 0)}


def _side(scene: Scene, rng: np.random.Generator) -> Slots | None:
    thing = pick(scene.things, rng)
    name = names.unique_name(scene, thing, rng)
    side = pick(tuple(_SIDES), rng)
    depth = names.in_half(thing, _SIDES[side])
    if not name or abs(depth) < _OFF_CENTRE:
        return None
    return {"name": str(name), "side": side, "answer": _yes(depth > 0)}


def _superlative(attribute: str) -> Draw:
    """Return how to ask for an attribute of the leftmost, highest, largest, ... thing."""

    def draw(scene: Scene, rng: np.random.Generator) -> Slots | None:
        word = pick(tuple(_SUPERLATIVES), rng)
        thing = names.clear_winner(scene.things, _SUPERLATIVES[word])
        return {"superlative": word, "answer": getattr(thing, attribute)} if thing else None

    return draw


def _nearest(attribute: str) -> Draw:
    """Return how to ask for an attribute of the thing nearest to a named one."""

    def draw(scene: Scene, rng: np.random.Generator) -> Slots | None:
        other = pick(scene.things, rng)
        name, thing = names.unique_name(scene, other, rng), names.nearest(scene.things, other)
        return {"name": str(name), "answer": getattr(thing, attribute)} if name and thing else None

    return draw


def _neighbour(scene: Scene, rng: np.random.Generator) -> Slots | None:
    """What is left of it? Asked where one thing clearly is and no other is at all."""
    other = pick(scene.things, rng)
    name = names.unique_name(scene, other, rng)
    relation = pick(tuple(names.DIRECTIONS), rng)
    found = _only_one(scene, other, names.DIRECTIONS[relation])
    return {"name": str(name), "relation": relation, "answer": found.shape} if name and found else None


def _only_one(scene: Scene, other: Thing, direction: tuple[int, int]) -> Thing | None:
    gaps = {thing: names.further(thing, other, direction) for thing in scene.things if thing is not other}
    beyond = [thing for thing, gap in gaps.items() if gap > 0]
    return beyond[0] if len(beyond) == 1 and gaps[beyond[0]] >= names.CLEARLY else None


KINDS = (
    Kind(
        0.22,
        "yes/no",
        _existence,
        (
            "Is there a| {name} in the picture?",
            "Is there a| {name}?",
            "Do you see a| {name}?",
            "Does the picture show a| {name}?",
        ),
    ),
    Kind(0.07, "yes/no", _color_check, ("Is the| {name} {color}?", "Is the color of the| {name} {color}?")),
    Kind(
        0.11,
        "other",
        _attribute("color"),
        (
            "What color is the| {name}?",
            "What is the color of the| {name}?",
            "Which color does the| {name} have?",
        ),
    ),
    Kind(
        0.10,
        "other",
        _attribute("shape"),
        ("What shape is the| {name}?", "What kind of thing is the| {name}?"),
    ),
    Kind(0.08, "other", _attribute("size"), ("What size is the| {name}?", "How big is the| {name}?")),
    Kind(
        0.10,
        "number",
        _count,
        (
            "How many| {names} are there?",
            "How many| {names} are in the picture?",
            "What number of| {names} is shown?",
        ),
    ),
    Kind(
        0.07,
        "yes/no",
        _relation,
        ("Is the| {name} {relation} the {other}?", "Can the| {name} be found {relation} the {other}?"),
    ),
    Kind(0.09, "yes/no", _side, ("Is the| {name} {side} of the picture?", "Is the| {name} {side}?")),
    Kind(0.05, "other", _superlative("color"), ("What color is the| {superlative} object?",)),
    Kind(0.05, "other", _superlative("shape"), ("What shape is the| {superlative} object?",)),
    Kind(0.02, "other", _nearest("color"), ("What color is the object nearest to the| {name}?",)),
    Kind(
        0.02,
        "other",
        _nearest("shape"),
        ("What is nearest to the| {name}?", "Which object is closest to the| {name}?"),
    ),
    Kind(0.02, "other", _neighbour, ("What is {relation} the| {name}?",)),
)
