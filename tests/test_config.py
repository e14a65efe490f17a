import importlib.resources
import json
import math
import re
import typing

import pytest
import yaml
from msgspec import structs

from mmnas import config as config_module
from mmnas.config import PARTS, SIZES, Config, load_config, read_overrides
from mmnas.errors import ConfigError
from mmnas.schema import bare_type
from mmnas.tasks.vqa import VQATask
from tests.stand_in import ROOT

TASKS = sorted(path.stem for path in (ROOT / "mmnas" / "configs").glob("*.yml"))
# Base learning rate, epochs, epochs of decay.
PAPER = {"vqa": (1.2e-4, 13, (10, 12)), "vgd": (1.4e-4, 13, (10, 12)), "itm": (1.5e-4, 100, (36,))}


def load(task="vqa", size="small", split="train", **options):
    return load_config(task, size, split=split, version="test", **options)


def load_with(tmp_path, text, **options):
    path = tmp_path / "own.yml"
    path.write_text(text, encoding="utf-8")
    return load(file=str(path), **options)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("task", TASKS)
def test_every_shipped_section_loads(task, size):
    config = load(task, size)
    assert (config.task, config.size, config.split, config.version) == (task, size, "train", "test")


@pytest.mark.parametrize("task", TASKS)
def test_small_is_what_the_paper_says(task):
    base_lr, epochs, decays = PAPER[task]
    training = load(task).training
    assert (training.base_lr, training.epochs, training.decay_epochs) == (base_lr, epochs, decays)
    assert (training.betas, training.eps, training.clip_norm) == ((0.9, 0.98), 1e-9, 1.0)
    assert (training.decay_rate, training.batch_size, training.optimizer) == (0.2, 64, "adam")


@pytest.mark.parametrize(("size", "hidden", "scale"), [("small", 512, 1), ("large", 1024, 2), ("tiny", 128, 1)])
@pytest.mark.parametrize("task", TASKS)
def test_widths_follow_from_the_hidden_size(task, size, hidden, scale):
    model = load(task, size).model
    assert (model.hidden_size, model.pooling_size, model.pooled_size) == (hidden, hidden, 2 * hidden)
    assert model.head_scale == scale
    assert (model.feature_size, model.word_size, model.relation_size) == (2048, 300, 64)
    assert (model.box_size, model.glimpses, model.dropout) == (0, 1, 0.0 if size == "tiny" else 0.1)


def test_text_lengths():
    assert load().data.max_tokens == 14
    assert load().data.max_regions == 100
    assert VQATask.settle(load()).data.answer_min_count == 8


def test_base_rate_of_a_split():
    assert load(size="large").base_lr == 7e-5
    assert load(size="large", split="train+val+vg").base_lr == 5e-5


def test_dict_there_and_back_through_json():
    config = load(size="large", overrides={"paths.features": "/data/x"})
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("part", PARTS)
def test_every_field_has_a_help_text(part):
    for field in structs.fields(PARTS[part]):
        assert typing.get_args(field.type)[-1].description, f"{part}.{field.name}"


@pytest.mark.parametrize("task", TASKS)
def test_shipped_files_set_no_key_twice_and_only_keys_of_the_schema(task):
    sections = yaml.safe_load((ROOT / "mmnas" / "configs" / f"{task}.yml").read_text(encoding="utf-8"))
    assert list(sections) == list(SIZES)
    for section in sections.values():
        for part, values in section.items():
            assert set(values) <= {field.name for field in structs.fields(PARTS[part])}


def test_the_shipped_file_is_read_once_however_often_it_is_asked_for(monkeypatch):
    read = []
    files = importlib.resources.files
    monkeypatch.setattr(importlib.resources, "files", lambda package: read.append(package) or files(package))
    config_module.shipped_sections.cache_clear()
    for size in SIZES:
        load("vqa", size)
    assert read == ["mmnas.configs"]


def test_shipped_files_hold_plain_sections():
    for task in TASKS:
        text = (ROOT / "mmnas" / "configs" / f"{task}.yml").read_text(encoding="utf-8")
        assert set(SIZES) <= set(yaml.safe_load(text))
        assert "&" not in text
        assert "<<" not in text


# Order: the shipped section, a file, the flags


def test_flags_lie_over_the_file_and_the_file_over_the_shipped_section(tmp_path):
    text = "training: {seed: 3, epochs: 2, base_lr: 1e-3}\nmodel: {dropout: 0}"
    config = load_with(tmp_path, text, overrides={"training.seed": 5})
    assert (config.training.seed, config.training.epochs, config.training.base_lr) == (5, 2, 1e-3)
    assert config.model.dropout == 0.0
    assert config.model.hidden_size == 512


def test_what_a_file_sets_is_listed_by_dotted_key(tmp_path):
    path = tmp_path / "own.yml"
    path.write_text("training: {seed: 3}\npaths: {data: /d}\n", encoding="utf-8")
    assert read_overrides(str(path)) == {"training.seed": 3, "paths.data": "/d"}
    assert read_overrides(None) == {}


# Mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {sed: 3}", r"unknown key training\.sed; did you mean seed\?"),
        ("model: {hidden: 3}", r"unknown key model\.hidden; "),
        ("trainig: {seed: 3}", r"section 'trainig' is unknown; did you mean training\?"),
        ("small: {training: {seed: 3}}", r"section 'small' is unknown; valid ones: model, data, training, paths"),
        ("training: {epochs: ten}", r"training\.epochs must be an integer, not 'ten'"),
        ("training: {epochs: 2.5}", r"training\.epochs must be an integer, not 2\.5"),
        ("training: {decay_epochs: 5}", r"training\.decay_epochs must be a list, not 5"),
        ("training: {decay_epochs: [a]}", r"training\.decay_epochs\[0\] must be an integer, not 'a'"),
        (
            "training: {split_base_lr: 1e-4}",
            r"training\.split_base_lr must be a mapping of keys to values, not 0\.0001",
        ),
        ("training: {betas: [0.9]}", r"training\.betas must be a list of length 2, not \[0\.9\]"),
        (f"training: {{base_lr: 1{'0' * 400}}}", r"training\.base_lr must be"),
        ("paths: {data: [a]}", r"paths\.data must be text, not \['a'\]"),
        ("training: 5", "must look like a section of the shipped YAML"),
        ("training:", "must look like a section of the shipped YAML"),
        ("", "must look like a section of the shipped YAML"),
        ("- 1", "must look like a section of the shipped YAML"),
        ("training: {seed: 3", r"own\.yml is not valid YAML"),
        ("a: b: c", r"own\.yml is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", r"own\.yml is not valid YAML"),
        ("[" * 5000, r"own\.yml is not valid YAML"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_with(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_not_text(tmp_path):
    with pytest.raises(ConfigError, match=r"--CFG file not found: .*absent\.yml"):
        load(file=str(tmp_path / "absent.yml"))
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match=r"--CFG file is UTF-16 text: .*binary\.yml"):
        load(file=str(tmp_path / "binary.yml"))


def test_a_byte_order_mark_is_skipped_and_a_key_that_occurs_twice_is_named(tmp_path):
    assert load_with(tmp_path, "\ufefftraining: {seed: 3}").training.seed == 3
    for text in ("training: {seed: 3, seed: 4}", "training: {seed: 3}\nmodel: {}\ntraining: {epochs: 1}"):
        with pytest.raises(ConfigError, match=r"own\.yml .*the key '(seed|training)' occurs twice"):
            load_with(tmp_path, text)


def test_a_section_that_does_not_exist():
    with pytest.raises(ConfigError, match="vqa's size 'huge' is unknown; valid ones: small, large, tiny"):
        load(size="huge")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.hidden_size", 0, "model.hidden_size must be an integer of at least 1, not 0"),
        ("model.glimpses", -1, "model.glimpses must be an integer of at least 1, not -1"),
        ("model.box_size", -1, "model.box_size must be an integer of at least 0, not -1"),
        ("model.dropout", 1, "model.dropout must be a number below 1.0, not 1"),
        ("model.dropout", -0.1, "model.dropout must be a number of at least 0.0, not -0.1"),
        ("model.dropout", math.nan, "model.dropout must be a number of at least 0.0, not nan"),
        ("model.dropout", "nan", "model.dropout must be a number, not 'nan'"),
        ("model.dropout", True, "model.dropout must be a number, not True"),
        ("data.max_tokens", 0, "data.max_tokens must be an integer of at least 1, not 0"),
        ("data.max_regions", 0, "data.max_regions must be an integer of at least 1, not 0"),
        ("training.epochs", 0, "training.epochs must be an integer of at least 1, not 0"),
        ("training.epochs", True, "training.epochs must be an integer, not True"),
        ("training.batch_size", -3, "training.batch_size must be an integer of at least 1, not -3"),
        ("training.eval_batch_size", 0, "training.eval_batch_size must be an integer of at least 1, not 0"),
        ("training.accumulate", 0, "training.accumulate must be an integer of at least 1, not 0"),
        ("training.accumulate", 65, "training.accumulate 65 (--ACCU) is more than the batch size 64 (--BS)"),
        ("training.base_lr", 0, "training.base_lr must be a number above 0.0, not 0"),
        ("training.base_lr", math.nan, "training.base_lr must be a number above 0.0, not nan"),
        ("training.clip_norm", math.inf, "training.clip_norm must be a number of at most 1e+38, not inf"),
        ("training.decay_rate", -1, "training.decay_rate must be a number above 0.0, not -1"),
        ("training.eps", 0, "training.eps must be a number above 0.0, not 0"),
        ("training.workers", -1, "training.workers must be an integer of at least 0, not -1"),
        ("training.workers", 1024, "training.workers must be an integer of at most 1023, not 1024"),
        ("training.seed", -1, "training.seed must be an integer of at least 0, not -1"),
        ("training.seed", 2**63, "training.seed must be an integer of at most 9223372036854775807, not an integer"),
        (
            "training.seed",
            10**4000,
            "training.seed must be an integer of at most 9223372036854775807, not an integer",
        ),
        ("training.optimizer", "adamw", "training.optimizer 'adamw' is unknown; did you mean adam?"),
        ("training.precision", "fp16", "training.precision 'fp16' is unknown; did you mean"),
        ("training.betas", [0.9, 1.5], "training.betas[1] must be a number below 1.0, not 1.5"),
        ("training.betas", [-0.1, 0.9], "training.betas[0] must be a number of at least 0.0, not -0.1"),
        ("training.momentum", -3, "training.momentum must be a number of at least 0.0, not -3"),
        (
            "training.split_base_lr",
            {"train": -1},
            "training.split_base_lr.train must be a number above 0.0, not -1",
        ),
        ("search.encoder_blocks", 1001, "search.encoder_blocks must be an integer of at most 1000, not 1001"),
        ("search.encoder_candidates", ["gelu"] * 2, "search.encoder_candidates must list different operations"),
        ("search.alpha_init", "zeros", "search.alpha_init 'zeros' is unknown; valid ones: prior, uniform, normal"),
        ("paths.data", "a\nb", "paths.data must be UTF-8 text without control characters, not 'a\\nb'"),
        ("paths.features", "\ud800", "paths.features must be UTF-8 text without control characters, not '\\ud800'"),
        ("training.split_base_lr", {"a\n": 1.0}, "training.split_base_lr: keys must be names, not ['a\\n']"),
    ],
)
def test_values_out_of_range_name_their_key(key, value, message):
    with pytest.raises(ConfigError) as caught:
        load(overrides={key: value})
    assert str(caught.value).startswith(message)


NUMBERS = [
    f"{part}.{field.name}"
    for part, kind in PARTS.items()
    for field in structs.fields(kind)
    if bare_type(field.type) is not str and re.search("float|int", str(field.type))
]
ODD = [-1, 2**62, -(2**62), 10**40, 10**400, 1e308, -1e308, math.nan, math.inf, "1", "", {1: 1}, True, None]
ODD_PARTS = [10**40, -1, 1e308, math.nan, "1", None]
# Numbers that are only compared with others, and rates up to the largest float32.
UNLIMITED = """
    data.answer_min_count training.seed training.random_negative_epochs search.alpha_start search.patience
    training.base_lr training.eps training.clip_norm search.alpha_lr
"""


@pytest.mark.parametrize("key", NUMBERS)
def test_odd_numbers_are_refused_by_every_field(key):
    """Past this check they would be tracebacks, NaN, or memory asked for without end."""
    odd = [value for value in ODD if value != 2**62 or key not in UNLIMITED.split()]
    if key == "data.answer_min_count":
        odd.remove(None)  # stands for the default, which depends on the data set
    odd += [[value] for value in ODD_PARTS] + [{"train": value} for value in ODD_PARTS]
    for value in odd:
        with pytest.raises(ConfigError, match=re.escape(key)):
            load(overrides={key: value})


@pytest.mark.parametrize("key", ["model", "training", "task"])
def test_a_stored_configuration_that_lacks_a_part(key):
    values = load().to_dict()
    del values[key]
    with pytest.raises(ConfigError, match=f"^key {key} is missing"):
        Config.from_dict(values)


def test_a_stored_configuration_with_a_key_of_another_version():
    values = load().to_dict()
    values["training"]["warmup"] = 3
    with pytest.raises(ConfigError, match=r"unknown key training\.warmup"):
        Config.from_dict(values)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        load().training.seed = 1
