"""Names and relations: what can be said about the things of a scene, and where it is clearly true.

Questions, expressions and captions are made from these. Close calls are never put into words: two things side by
side give no question about the upper one.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from mmnas.demo.scenes import Scene, Thing, pick

CLEARLY = 0.12  # fraction of the canvas by which one thing must lie further in a direction than another

Point = tuple[float, float]
MIDDLE: Point = (0.5, 0.5)
# Directions and halves of the picture: the axis (0 is x, 1 is y), and the sign of going there.
Direction = tuple[int, int]
DIRECTIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
SIDES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}

# A superlative: what it maximizes, and the margin over every other thing.
Superlative = tuple[Callable[[Thing], float], float]
BY_POSITION: dict[str, Superlative] = {
    "leftmost": (lambda thing: -thing.center[0], 0.08),
    "rightmost": (lambda thing: thing.center[0], 0.08),
    "highest": (lambda thing: -thing.center[1], 0.08),
    "lowest": (lambda thing: thing.center[1], 0.08),
}
BY_SIZE: dict[str, Superlative] = {
    "largest": (lambda thing: math.log(thing.area), 0.4),
    "smallest": (lambda thing: -math.log(thing.area), 0.4),
}
SUPERLATIVES = BY_POSITION | BY_SIZE
_NEARER = math.log(1.25)  # the second nearest thing must be a quarter further away


def having(name: str, things: Sequence[Thing]) -> list[Thing]:
    """Return the things that have every attribute in a name such as "small red ball" or "red object"."""
    words = set(name.split()) - {"object"}
    return [thing for thing in things if words <= set(thing.look)]


def all_names(thing: Thing, hidden: str = "") -> list[str]:
    """Return every name of the thing that does not give away the attribute `hidden`, shortest first."""
    known = [attribute for attribute in ("size", "color", "shape") if attribute != hidden]
    chosen = [some for length in range(1, len(known) + 1) for some in combinations(known, length)]
    words = [[getattr(thing, attribute) for attribute in some] for some in chosen]
    return [" ".join(some if thing.shape in some else [*some, "object"]) for some in words]


def unique_name(scene: Scene, thing: Thing, rng: np.random.Generator, hidden: str = "") -> str | None:
    """Return a name that only this thing of the scene has, usually a short one; None if there is none.

    It includes the color or the shape: nobody would say "the medium object".
    """
    names = [name for name in all_names(thing, hidden) if name != f"{thing.size} object"]
    names = [name for name in names if len(having(name, scene.things)) == 1]
    return names[min(int(rng.geometric(0.8)), len(names)) - 1] if names else None


def further(point: Point, other: Point, direction: Direction) -> float:
    """Return how much further in `direction` a point is than another, as a fraction of the canvas."""
    axis, sign = direction
    return sign * (point[axis] - other[axis])


def gaps(things: Sequence[Thing], point: Point, direction: Direction) -> dict[Thing, float]:
    """Return for each thing how much further in `direction` its center is than `point`."""
    return {thing: further(thing.center, point, direction) for thing in things}


def clear_winner(things: Sequence[Thing], superlative: Superlative) -> Thing | None:
    """Return the thing that the superlative names; None for a single thing or a margin that is too small."""
    measure, margin = superlative
    first, *rest = sorted(things, key=measure, reverse=True)
    return first if rest and measure(first) - measure(rest[0]) >= margin else None


def nearest(things: Sequence[Thing], other: Thing) -> Thing | None:
    """Return the thing whose center is clearly nearest to that of `other`; None if that is a close call."""
    rivals = [thing for thing in things if thing is not other]
    if len(rivals) < 2:
        return rivals[0] if rivals else None
    return clear_winner(rivals, (lambda thing: -math.log(_distance(thing, other)), _NEARER))


def another(scene: Scene, thing: Thing, rng: np.random.Generator) -> Thing:
    """Return some other thing of the scene."""
    return pick([other for other in scene.things if other is not thing], rng)


def _distance(thing: Thing, other: Thing) -> float:
    centers = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in (thing.box, other.box)]
    return math.dist(*centers)
