import re

import pytest

from mmnas.errors import ConfigError
from mmnas.run import cli
from mmnas.run.cli import main, parse
from mmnas.run.flags import flags_of
from mmnas.run.plan import make_plan
from mmnas.tasks.itm import ITMTask
from mmnas.tasks.vgd import VGDTask
from mmnas.tasks.vqa import VQATask

FLAGS = {flag.name: flag for flag in flags_of(VQATask)}


def read(*arguments):
    return parse(VQATask, arguments)


def mistakes(*arguments):
    with pytest.raises(ConfigError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value).split("; ")


# What is understood


def test_run_alone():
    request = read("--RUN=train")
    assert request.run == "train"
    assert request.overrides == {}
    assert re.fullmatch(r"vqa_small_\d{8}_\d{6}", request.default_version)
    given = (request.size, request.split, request.version, request.geno_path, request.checkpoint, request.file)
    assert given == (None,) * 6
    assert (request.resume, request.keep_all, request.devices) == (False, False, None)


def test_a_search_is_named_after_its_size():
    assert re.fullmatch(r"vqa_search_\d{8}_\d{6}", read("--RUN=search").default_version)
    assert read("--RUN=search", "--MODEL=tiny").default_version.startswith("vqa_tiny_")


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("--RUN=val", "run", "val"),
        ("--VERSION=mine", "version", "mine"),
        ("--RESUME", "resume", True),
        ("--RESUME=True", "resume", True),
        ("--RESUME=false", "resume", False),
        ("--KEEP_ALL", "keep_all", True),
        ("--SCORES", "scores", True),
        ("--CKPT_PATH=a.pkl", "checkpoint", "a.pkl"),
        ("--MODEL=large", "size", "large"),
        ("--GENO_PATH=g.json", "geno_path", "g.json"),
        ("--ARCH_PATH=g.json", "geno_path", "g.json"),
        ("--GENO_EPOCH=7", "geno_epoch", 7),
        ("--ARCH_EPOCH=7", "geno_epoch", 7),
        ("--SPLIT=train+val", "split", "train+val"),
        ("--CFG=own.yml", "file", "own.yml"),
        ("--NEW_ANSWERS", "new_answers", True),
        ("--GPU=0, 1, 2, 3", "devices", "0, 1, 2, 3"),
        ("--GPU=cpu", "devices", "cpu"),
        ("--TIME_LIMIT=90", "time_limit", 90),
    ],
)
def test_flags_of_the_request(argument, field, value):
    assert getattr(read("--RUN=train", argument), field) == value


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("--DATA_PATH=/d", "paths.data", "/d"),
        ("--FEAT_PATH=/f", "paths.features", "/f"),
        ("--WORD_VECTORS=glove.txt", "paths.word_vectors", "glove.txt"),
        ("--DATASET=custom", "data.dataset", "custom"),
        ("--METRIC=exact", "data.metric", "exact"),
        ("--LR=3e-4", "training.base_lr", 3e-4),
        ("--BS=32", "training.batch_size", 32),
        ("--ACCU=2", "training.accumulate", 2),
        ("--BUCKETS=false", "training.buckets", False),
        ("--MAX_EPOCH=5", "training.epochs", 5),
        ("--SEED=9", "training.seed", 9),
        ("--NW=0", "training.workers", 0),
        ("--FEATURES=memory", "training.features", "memory"),
        ("--PRECISION=bf16", "training.precision", "bf16"),
        ("--ALPHA_MODE=two", "search.alpha_mode", "two"),
        ("--ALPHA_START=3", "search.alpha_start", 3),
        ("--ALPHA_EVERY=2", "search.alpha_every", 2),
        ("--ALPHA_INIT=uniform", "search.alpha_init", "uniform"),
        ("--PATIENCE=4", "search.patience", 4),
        ("--MIN_EPOCH=6", "search.min_epochs", 6),
        ("--SEARCH=evolution", "search.strategy", "evolution"),
        ("--CHOOSE=16", "search.choose", 16),
        ("--SAMPLING=fair", "search.sampling", "fair"),
        ("--MACS=2.0G", "search.macs", "2.0G"),
        ("--PARAMS=40M", "search.params", "40M"),
        ("--MAX_SKIP=2", "search.max_skip", 2),
        ("--COMPILE", "training.compile", True),
        ("--COMPILE=false", "training.compile", False),
    ],
)
def test_flags_that_override_the_configuration(argument, key, value):
    request = read("--RUN=train", argument)
    assert request.overrides[key] == value
    assert request.flags[key] == argument.split("=")[0]


def test_a_learning_rate_holds_for_every_split():
    """The large network has one of its own for train+val+vg."""
    flags = ["--RUN=train", "--MODEL=large", "--VERSION=x"]
    for more, rate in ((), 5e-5), (["--LR=1e-5"], 1e-5):
        assert make_plan(VQATask, read(*flags, *more)).config.base_lr == rate


def test_small_letters_and_hyphens_are_understood():
    request = read("--run=train", "--Seed", "1", "--max-epoch=5", "--metric=exact")
    assert request.overrides == {"training.seed": 1, "training.epochs": 5, "data.metric": "exact"}


def test_value_as_a_word_of_its_own():
    request = read("--RUN", "train", "--BS", "32", "--RESUME", "--SEED", "1")
    assert (request.run, request.resume) == ("train", True)
    assert request.overrides == {"training.batch_size": 32, "training.seed": 1}


@pytest.mark.parametrize("run", ["val", "test"])
def test_batch_size_of_an_evaluation(run):
    assert read(f"--RUN={run}", "--BS=32").overrides == {"training.eval_batch_size": 32}


def test_default_version_carries_the_size():
    assert read("--RUN=train", "--MODEL=tiny").default_version.startswith("vqa_tiny_")


def test_every_flag_has_a_case_above():
    covered = set()
    for test in (test_flags_of_the_request, test_flags_that_override_the_configuration):
        (mark,) = test.pytestmark
        covered |= {argument.split("=")[0] for argument, *_ in mark.args[1]}
    assert covered == {name for flag in FLAGS.values() for name in (flag.name, *flag.aliases)}


# Mistakes


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--RUN=trian", "--RUN=trian is unknown; did you mean train?"),
        ("--RUN=fit", "--RUN=fit is unknown; valid ones: train, val, test, search"),
        ("--MODEL=big", "--MODEL=big is unknown; valid ones: small, large, tiny"),
        ("--MODEL=lagre", "--MODEL=lagre is unknown; did you mean large?"),
        ("--SPLIT=", "--SPLIT is given without a value"),
        ("--PRECISION=bf8", "--PRECISION=bf8 is unknown; valid ones: fp32, tf32, bf16"),
        ("--BS=x", "--BS=x must be an integer"),
        ("--BS=", "--BS is given without a value"),
        ("--BS=6.4", "--BS=6.4 must be an integer"),
        ("--BS=1e2", "--BS=1e2 must be an integer"),
        ("--BS=--5", "--BS=--5 must be an integer"),
        ("--BS=-", "--BS=- must be an integer"),
        ("--GENO_EPOCH=last", "--GENO_EPOCH=last must be an integer"),
        ("--RESUME=yes", "--RESUME=yes is neither true nor false"),
        ("--RESUME=", "--RESUME is given without a value"),
        ("--COMPILE=1", "--COMPILE=1 is neither true nor false"),
        ("--VERSION=", "--VERSION is given without a value"),
        ("--DATA_PATH= ", "--DATA_PATH is given without a value"),
        ("--CKPT_PATH=", "--CKPT_PATH is given without a value"),
        ("--SED=3", "unknown flag --SED=3; did you mean --SEED?"),
        ("--lrate=3", "unknown flag --lrate=3; --help lists the flags"),
        ("--LR=fast", "--LR=fast must be a number such as 1e-4"),
        ("--LR=", "--LR is given without a value"),
        ("--EPOCHS=3", "unknown flag --EPOCHS=3; did you mean --MAX_EPOCH?"),
        ("--epoch=3", "unknown flag --epoch=3; did you mean --MAX_EPOCH?"),
        ("--Batch-Size=8", "unknown flag --Batch-Size=8; did you mean --BS?"),
        ("--NUM_WORKERS=2", "unknown flag --NUM_WORKERS=2; did you mean --NW?"),
        ("--CHECKPOINT=a", "unknown flag --CHECKPOINT=a; did you mean --CKPT_PATH?"),
        ("--DROPOUT=0.2", "unknown flag --DROPOUT=0.2; set model.dropout by --CFG"),
        ("--X=1", "unknown flag --X=1; --help lists the flags"),
        ("--SPLITS", "unknown flag --SPLITS; did you mean --SPLIT?"),
        ("--ARCH_PAHT=g", "unknown flag --ARCH_PAHT=g; did you mean --ARCH_PATH?"),
        ("--VERSION=a/b", "--VERSION='a/b' becomes part of file names"),
        ("--VERSION=../x", "--VERSION='../x' becomes part of file names"),
        ("--VERSION=.hidden", "--VERSION='.hidden' becomes part of file names"),
    ],
)
def test_every_mistake_is_named_with_a_way_out(argument, message):
    given = [argument] if argument.startswith("--RUN") else ["--RUN=train", argument]
    assert "; ".join(mistakes(*given)).startswith(message)


def test_a_number_too_long_to_read():
    assert mistakes("--RUN=train", f"--SEED={'9' * 5000}")[0].endswith("must be an integer")


def test_a_name_too_long_for_file_systems_is_refused_at_the_start():
    """100 characters may be 300 bytes, and a file's name holds 255."""
    assert read("--RUN=train", f"--VERSION={'語' * 66}").version == "語" * 66
    assert "at most 100 of them and 200 bytes" in mistakes("--RUN=train", f"--VERSION={'語' * 67}")[0]


@pytest.mark.parametrize("flag", [["--local-rank=1"], ["--local_rank=1"], ["--local-rank", "1"]])
def test_the_flag_that_older_launchers_add_changes_nothing(flag):
    assert read("--RUN=train", *flag).overrides == read("--RUN=train").overrides


def test_run_is_required():
    assert mistakes() == ["--RUN is missing: one of train, val, test, search"]


@pytest.mark.parametrize("abbreviation", ["--VER=x", "--RESUM", "--GENO_PAT=x"])
def test_abbreviations_are_not_guessed(abbreviation):
    assert mistakes("--RUN=train", abbreviation)[0] == f"unknown flag {abbreviation}"


def test_a_stray_word_is_named():
    assert mistakes("--RUN=train", "train")[0] == "unknown flag train"


def test_several_mistakes_are_one_error():
    found = mistakes("--RUN=trian", "--SED=3", "--BS=x", "--RESUME=maybe", "--DATA_PATH=")
    text = "; ".join(found)
    for part in ("--RUN=trian", "--SED=3", "--BS=x", "--RESUME=maybe", "--DATA_PATH is given"):
        assert part in text


def test_a_flag_without_its_value_is_named_beside_the_other_mistakes():
    text = "; ".join(mistakes("--RUN=trian", "--SED=3", "--BS"))
    for part in ("--BS", "--RUN=trian", "--SED=3"):
        assert part in text


# Help


def help_text(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("task", [VQATask, VGDTask, ITMTask])
def test_help_lists_every_flag_with_its_default_in_its_group(capsys, task):
    with pytest.raises(SystemExit):
        parse(task, ["--help"])
    text = capsys.readouterr().out
    flags = flags_of(task)
    blocks = dict(re.findall(r"^([a-z ]+):\n((?:  .*\n)+)", text, flags=re.MULTILINE))
    assert list(blocks)[1:] == list(dict.fromkeys(flag.group for flag in flags))  # the first is argparse's own
    for flag in flags:
        block = " ".join(blocks[flag.group].split())
        for name in (flag.name, *flag.aliases):
            assert re.search(rf"{name}[ ,]", block)  # Python 3.13 shows the value once, after the last alias
        default = {"": "", "required": " (required)"}.get(flag.default, f" (default: {flag.default})")
        assert f"{flag.help}{default}" in block
        assert "|".join(flag.choices) in block


def test_help_begins_with_the_script_and_its_task(capsys):
    text = help_text(capsys)
    assert text.startswith("usage: python3 train_vqa.py")
    assert VQATask.__doc__ in text


@pytest.mark.parametrize(
    ("task", "name", "default"),
    [
        (VQATask, "--RUN", "required"),
        (VQATask, "--RESUME", "false"),
        (VQATask, "--SPLIT", "train+val+vg"),
        (VQATask, "--GENO_PATH", "train_vqa"),
        (VQATask, "--DATA_PATH", "./data"),
        (VQATask, "--BS", "64"),
        (VQATask, "--MAX_EPOCH", "13; depends on --MODEL"),
        (VQATask, "--ALPHA_START", "20; depends on --MODEL"),
        (VQATask, "--ALPHA_MODE", "full"),
        (VQATask, "--BUCKETS", "true"),
        (ITMTask, "--DATASET", "flickr"),
        (ITMTask, "--LOSS", "bce"),
        (ITMTask, "--PROTOCOL", ""),
        (VGDTask, "--FEAT", "vg_woref"),
    ],
)
def test_defaults_in_help_are_those_of_the_configuration(task, name, default):
    assert {flag.name: flag.default for flag in flags_of(task)}[name] == default


def test_type_and_choices_of_a_flag_follow_from_its_field_and_its_task():
    flags = {flag.name: flag for flag in flags_of(ITMTask)}
    assert (flags["--BS"].kind, flags["--BUCKETS"].kind, flags["--GENO_EPOCH"].kind) == (int, bool, int)
    assert flags["--PRECISION"].choices == ("fp32", "tf32", "bf16")
    assert flags["--PROTOCOL"].choices == ITMTask.choices["data.protocol"]
    assert flags["--SPLIT"].choices == ITMTask.splits


# main


def test_main_turns_a_mistake_into_one_line_and_exit_code_2(capsys):
    assert main(VQATask, ["--RUN=trian", "--BS=x"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "error: --RUN=trian is unknown; did you mean train?; --BS=x must be an integer\n"


def test_main_reads_the_command_line_by_itself(capsys, monkeypatch):
    monkeypatch.setattr(cli.sys, "argv", ["train_vqa.py", "--RUN=trian"])
    assert main(VQATask) == 2
    assert capsys.readouterr().err.startswith("error: --RUN=trian is unknown")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--RUN=val"], "--RUN=val needs a trained model: name its --VERSION or its --CKPT_PATH"),
        (["--RUN=test", "--VERSION=nothing"], "no checkpoint in .*ckpt_nothing"),
        (["--RUN=val", "--CKPT_PATH=absent.pkl"], "checkpoint not found: absent.pkl"),
        (["--RUN=train", "--GENO_PATH=absent.json"], "genotype file not found: absent.json"),
        (["--RUN=train", "--CFG=absent.yml"], "--CFG file not found: absent.yml"),
        (["--RUN=train", "--SPLIT=train+vla"], "--SPLIT 'train\\+vla' is unknown; did you mean train\\+val?"),
        (["--RUN=train", "--BS=0"], "training.batch_size must be an integer of at least 1, not 0"),
    ],
)
def test_main_says_what_a_run_lacks_before_it_writes_anything(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(VQATask, arguments) == 2
    assert re.fullmatch(f"error: {message}.*\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_main_after_an_interrupt(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mmnas.run.cli.make_plan", interrupted)
    assert main(VQATask, ["--RUN=train"]) == 130
    assert capsys.readouterr().err == "stopped\n"
