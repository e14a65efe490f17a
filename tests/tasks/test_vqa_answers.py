"""How often an answer has to occur to be learned."""

import pytest

from mmnas.config import DataConfig, load_config
from mmnas.tasks.vqa import VQATask
from mmnas.tasks.vqa_answers import least_count


@pytest.mark.parametrize(("dataset", "expected"), [("", 8), ("vqa2", 8), ("custom", 0)])
def test_the_least_count_follows_from_the_data_set_unless_it_is_configured(dataset, expected):
    assert least_count(DataConfig(dataset=dataset)) == expected
    assert least_count(DataConfig(dataset=dataset, answer_min_count=3)) == 3


def test_a_task_learns_the_same_answers_whether_its_settings_are_settled_or_not(world):
    config = load_config("vqa", "tiny", split="train", version="x", overrides={"paths.data": str(world)})
    given, settled = (VQATask(each).build_vocabularies()["answers"] for each in (config, VQATask.settle(config)))
    assert given == settled
