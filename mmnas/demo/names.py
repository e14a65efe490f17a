"""What can be said of things, and of which ones it is clearly true.

Questions, expressions and captions share these: a name that fits exactly one thing, a direction, a
superlative. Whatever is a close call (two things side by side asked for the upper one) is never said.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mmnas.demo.scenes import Scene, Thing, pick

ATTRIBUTES = ("size", "color", "shape")
CLEARLY = 0.12  # share of the canvas by which one thing must be further to a side than another

# A direction: the axis (0 is x, 1 is y) and the sign of going there.
DIRECTIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
# A half of the picture, in the same terms.
SIDES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}

# A superlative: what is greatest for the thing that it names, and by how much it must be greater.
Superlative = tuple[Callable[[Thing], float], float]
OF_PLACE: dict[str, Superlative] = {
    "leftmost": (lambda thing: -thing.place[0], 0.08),
    "rightmost": (lambda thing: thing.place[0], 0.08),
    "highest": (lambda thing: -thing.place[1], 0.08),
    "lowest": (lambda thing: thing.place[1], 0.08),
}
OF_SIZE: dict[str, Superlative] = {
    "largest": (lambda thing: math.log(thing.area), 0.4),
    "smallest": (lambda thing: -math.log(thing.area), 0.4),
}
_NEARER = math.log(1.25)  # the second nearest must be a quarter further away


@dataclass(frozen=True)
class Name:
    """Some attributes of a thing, as in "small red ball" or "red object"; None leaves one open."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Return whether the thing has every attribute that the name gives."""
        given = ((getattr(self, attribute), getattr(thing, attribute)) for attribute in ATTRIBUTES)
        return all(wanted is None or wanted == value for wanted, value in given)

    def among(self, things: Sequence[Thing]) -> list[Thing]:
        """Return those of `things` that the name fits."""
        return [thing for thing in things if self.fits(thing)]

    def __str__(self) -> str:
        return " ".join(filter(None, (self.size, self.color, self.shape or "object")))

    @property
    def plural(self) -> str:
        """The name of several such things."""
        return f"{self}s"


def all_names(thing: Thing, hidden: str = "") -> list[Name]:
    """Return every name that fits the thing and does not tell the attribute `hidden`, shortest first."""
    open_to_say = [attribute for attribute in ATTRIBUTES if attribute != hidden]
    return [
        Name(**{attribute: getattr(thing, attribute) for attribute in said})
        for length in range(1, len(open_to_say) + 1)
        for said in combinations(open_to_say, length)
    ]


def unique_name(scene: Scene, thing: Thing, rng: np.random.Generator, hidden: str = "") -> Name | None:
    """Return a name that fits this thing of the scene only, more often a short one; None if none does.

    It tells the colour or the shape: nobody would call a thing "the medium object".
    """
    telling = [name for name in all_names(thing, hidden) if name.color or name.shape]
    names = [name for name in telling if len(name.among(scene.things)) == 1]
    return names[min(int(rng.geometric(0.8)), len(names)) - 1] if names else None


def further(thing: Thing, other: Thing, direction: tuple[int, int]) -> float:
    """Return how much further in `direction` the thing is than the other, as a share of the canvas."""
    axis, sign = direction
    return sign * (thing.place[axis] - other.place[axis])


def in_half(thing: Thing, side: tuple[int, int]) -> float:
    """Return how far the thing's centre is inside that half of the picture (negative: outside)."""
    axis, sign = side
    return sign * (thing.place[axis] - 0.5)


def clear_winner(things: Sequence[Thing], superlative: Superlative) -> Thing | None:
    """Return the thing for which the superlative holds by its margin over every other; None if too close."""
    measure, margin = superlative
    first, *rest = sorted(things, key=measure, reverse=True)
    return first if rest and measure(first) - measure(rest[0]) >= margin else None


def nearest(things: Sequence[Thing], other: Thing) -> Thing | None:
    """Return which of `things` is clearly nearest to `other`, by centres; None if that is a close call."""
    rivals = [thing for thing in things if thing is not other]
    if len(rivals) == 1:
        return rivals[0]
    return clear_winner(rivals, (lambda thing: -math.log(_distance(thing, other)), _NEARER)) if rivals else None


def another(scene: Scene, thing: Thing, rng: np.random.Generator) -> Thing:
    """Return some other thing of the scene."""
    return pick([other for other in scene.things if other is not thing], rng)


def _distance(thing: Thing, other: Thing) -> float:
    centres = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in (thing.box, other.box)]
    return math.dist(*centres)
