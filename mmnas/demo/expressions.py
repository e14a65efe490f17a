"""Referring expressions: phrases that single out one thing of a scene, in the manner of each data set.

RefCOCO's are short and say where a thing is; RefCOCO+'s never do; RefCOCOg's are longer and relate one
thing to another. A style is a list of ways; a way returns a phrase, or None where it would be ambiguous.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmnas.demo import names
from mmnas.demo.names import Superlative
from mmnas.demo.scenes import Scene, Thing, pick

Way = Callable[[Scene, Thing, np.random.Generator], str | None]

_TRIES = 30
_OFF_CENTRE = 0.05  # share of the canvas: the thing meant is in the half named, its rivals in the other


@dataclass(frozen=True)
class Style:
    """How one data set refers: who split it ("unc" or "umd"), phrases per thing, test splits, ways."""

    split_by: str
    phrases: int
    test_splits: tuple[str, ...]
    ways: tuple[Way, ...]


def refer(style: Style, scene: Scene, thing: Thing, rng: np.random.Generator) -> list[str]:
    """Return up to `style.phrases` different phrases that fit the thing and no other of the scene."""
    phrases: dict[str, None] = {}
    for _ in range(_TRIES):
        if len(phrases) == style.phrases:
            break
        phrase = pick(style.ways, rng)(scene, thing, rng)
        if phrase is not None:
            phrases[phrase] = None
    return list(phrases)


def _by_name(*wordings: str) -> Way:
    """Return the way that needs no more than the thing's looks: "red ball"."""

    def way(scene: Scene, thing: Thing, rng: np.random.Generator) -> str | None:
        name = names.unique_name(scene, thing, rng)
        return pick(wordings, rng).format(name=name) if name else None

    return way


def _by_side(*wordings: str) -> Way:
    """Return the way that says in which half of the picture it is: "ball on the left"."""

    def way(scene: Scene, thing: Thing, rng: np.random.Generator) -> str | None:
        name, side = pick(names.all_names(thing), rng), pick(tuple(names.SIDES), rng)
        inside = {one: names.in_half(one, names.SIDES[side]) for one in name.among(scene.things)}
        alone = all(depth <= -_OFF_CENTRE for one, depth in inside.items() if one is not thing)
        fits = inside[thing] >= _OFF_CENTRE and alone
        return pick(wordings, rng).format(name=name, side=side) if fits else None

    return way


def _by_superlative(superlatives: dict[str, Superlative]) -> Way:
    """Return the way that ranks it among its like: "leftmost ball"."""

    def way(scene: Scene, thing: Thing, rng: np.random.Generator) -> str | None:
        name, word = pick(names.all_names(thing, hidden="size"), rng), pick(tuple(superlatives), rng)
        best = names.clear_winner(name.among(scene.things), superlatives[word])
        return f"{word} {name}" if best is thing else None

    return way


def _by_nearness(*wordings: str) -> Way:
    """Return the way that names the thing to which it is nearest of its like: "ball closest to the cube"."""

    def way(scene: Scene, thing: Thing, rng: np.random.Generator) -> str | None:
        other = names.another(scene, thing, rng)
        name, other_name = pick(names.all_names(thing), rng), names.unique_name(scene, other, rng)
        fits = other_name and names.nearest(name.among(scene.things), other) is thing
        return pick(wordings, rng).format(name=name, other=other_name) if fits else None

    return way


def _by_direction(*wordings: str) -> Way:
    """Return the way that says in which direction of another thing it is, where no rival is at all."""

    def way(scene: Scene, thing: Thing, rng: np.random.Generator) -> str | None:
        other = names.another(scene, thing, rng)
        name, other_name = pick(names.all_names(thing), rng), names.unique_name(scene, other, rng)
        relation = pick(tuple(names.DIRECTIONS), rng)
        rivals = [one for one in name.among(scene.things) if one is not other]
        gaps = {one: names.further(one, other, names.DIRECTIONS[relation]) for one in rivals}
        alone = all(gap <= 0 for one, gap in gaps.items() if one is not thing)
        fits = other_name and gaps[thing] >= names.CLEARLY and alone
        return pick(wordings, rng).format(name=name, relation=relation, other=other_name) if fits else None

    return way


STYLES = {
    "refcoco": Style(
        "unc",
        3,
        ("testA", "testB"),
        (
            _by_name("{name}", "the {name}"),
            _by_side("{name} on {side}", "{side} {name}", "{name} at the {side}"),
            _by_superlative(names.OF_PLACE | names.OF_SIZE),
        ),
    ),
    "refcoco+": Style(
        "unc",
        3,
        ("testA", "testB"),
        (
            _by_name("{name}", "the {name}", "this {name}"),
            _by_superlative(names.OF_SIZE),
            _by_nearness("{name} closest to the {other}", "{name} nearest to {other}"),
        ),
    ),
    "refcocog": Style(
        "umd",
        2,
        ("test",),
        (
            _by_name("a {name} shown in the picture", "the only {name} that can be seen"),
            _by_nearness("the {name} that lies nearest to the {other}", "a {name} which is closest to the {other}"),
            _by_direction("the {name} that is {relation} the {other}", "a {name} lying {relation} a {other}"),
        ),
    ),
}
