from pathlib import Path

import pytest

from mmnas.demo.scenes import Scene, draw_scenes
from mmnas.demo.world import write_world

IMAGES, SEED = 30, 7


@pytest.fixture(scope="session")
def counts_and_world(tmp_path_factory) -> tuple[dict[str, int], Path]:
    """The counts and the folder of one small world, which no test may change."""
    out = tmp_path_factory.mktemp("world") / "data"
    return write_world(out, IMAGES, SEED), out


@pytest.fixture
def world(counts_and_world) -> Path:
    return counts_and_world[1]


@pytest.fixture(scope="session")
def scenes() -> dict[int, Scene]:
    return {scene.image_id: scene for scene in draw_scenes(IMAGES, SEED)}
