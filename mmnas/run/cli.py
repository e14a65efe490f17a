"""The command line that all scripts share: parsed, checked, and handed on as one request."""

import argparse
import difflib
import re
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from mmnas.config import PARTS
from mmnas.engine.distributed import launch
from mmnas.engine.logging import protect_terminal
from mmnas.errors import ConfigError, MMNasError, one_line
from mmnas.run.flags import LEARNING, Flag, Request, flags_of
from mmnas.run.plan import LONGEST_VERSION, default_size, is_version, make_plan
from mmnas.run.session import run
from mmnas.schema import field_types, nearest, shown
from mmnas.tasks.base import Task

METAVARS = {int: "N", float: "X", str: "TEXT", bool: "true|false"}


def main(task: type[Task], arguments: Sequence[str] | None = None) -> int:
    """Run a task's script; return its exit code: 0, 2 after a user's error, 128 + n after signal n."""
    protect_terminal()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # by the script, which has just started
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        request = parse(task, sys.argv[1:] if arguments is None else arguments)
        return launch(run, request.devices, task, make_plan(task, request))
    except (MMNasError, OSError, MemoryError, RuntimeError) as exception:
        sys.stderr.write(f"error: {one_line(exception)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=110)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return str(action.metavar or default_metavar)  # without the brackets of an optional value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; --help lists the flags")


def parse(task: type[Task], arguments: Sequence[str]) -> Request:
    """Turn the command line into a `Request`. Raises one `ConfigError` that names every mistake."""
    flags = flags_of(task)
    names = [name for flag in flags for name in (flag.name, *flag.aliases)]
    given, unknown = _parser(task, flags).parse_known_args([_capitalized(word, names) for word in arguments])
    errors = [f"unknown flag {word}; {_suggest(word, flags)}" for word in unknown]
    values = {}
    for flag in flags:
        text = getattr(given, flag.name[2:])
        if text is not None:
            try:
                values[flag.key] = _value(flag, text)
            except ConfigError as exception:
                errors.append(str(exception))
        elif flag.default == "required":
            errors.append(f"{flag.name} is missing: one of {', '.join(flag.choices)}")
    if errors:
        raise ConfigError("; ".join(errors))
    return _request(values, {flag.key: flag.name for flag in flags if flag.key in values}, task)


def _capitalized(word: str, names: Sequence[str]) -> str:
    """Return a flag as it is spelt here, where only its letters' case or its hyphens are others."""
    name, equals, value = word.partition("=")
    spelt = f"--{name[2:].upper().replace('-', '_')}"
    return f"{spelt}{equals}{value}" if name.startswith("--") and spelt in names else word


def _suggest(word: str, flags: Sequence[Flag]) -> str:
    """Return a hint: the flag, or the setting, whose name is nearest."""
    hints = {name: f"set {part}.{name} by --CFG" for part in PARTS for name in field_types(PARTS[part])}
    hints |= {flag.key.rpartition(".")[2]: f"did you mean {flag.name}?" for flag in flags}
    hints |= {name[2:].lower(): f"did you mean {name}?" for flag in flags for name in (flag.name, *flag.aliases)}
    bare = word.partition("=")[0].lstrip("-").replace("-", "_").lower()
    close = difflib.get_close_matches(bare, hints, n=1, cutoff=0.65)
    return hints[close[0]] if close else "--help lists the flags"


def _parser(task: type[Task], flags: Sequence[Flag]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"train_{task.name}.py",
        usage=f"python3 train_{task.name}.py --RUN=train|val|test|search [flags]",
        description=task.__doc__,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--local-rank", "--local_rank", help=argparse.SUPPRESS)  # older launchers; not needed
    groups = {name: parser.add_argument_group(name) for name in dict.fromkeys(flag.group for flag in flags)}
    for flag in flags:
        default = {"": "", "required": " (required)"}.get(flag.default, f" (default: {flag.default})")
        groups[flag.group].add_argument(
            flag.name,
            *flag.aliases,
            nargs="?",  # argparse would stop at the first flag without a value; all mistakes are to be named
            const="true" if flag.kind is bool else "",
            metavar="|".join(flag.choices) or METAVARS[flag.kind],
            help=f"{flag.help}{default}".replace("%", "%%"),
        )
    return parser


def _value(flag: Flag, text: str) -> Any:
    """Convert a flag's text, or raise `ConfigError` naming the valid ones."""
    if not text.strip():
        raise ConfigError(f"{flag.name} is given without a value")
    if flag.choices and text not in flag.choices and flag.key != "split":  # which depends on the data set
        raise ConfigError(f"{flag.name}={text} is unknown; {nearest(text, flag.choices)}")
    if flag.kind is int:
        if not re.fullmatch(r"-?\d{1,18}", text):
            raise ConfigError(f"{flag.name}={text} must be an integer")
        return int(text)
    if flag.kind is float:
        if not re.fullmatch(r"\d*\.?\d+(e-?\d{1,3})?", text, re.IGNORECASE):
            raise ConfigError(f"{flag.name}={text} must be a number such as 1e-4")
        return float(text)
    if flag.kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{flag.name}={text} is neither true nor false")
        return text.lower() == "true"
    return text


def _request(values: dict[str, Any], flags: dict[str, str], task: type[Task]) -> Request:
    fields = {key: value for key, value in values.items() if "." not in key}
    overrides = {key: value for key, value in values.items() if "." in key}
    if fields["run"] not in LEARNING and "training.batch_size" in overrides:
        overrides["training.eval_batch_size"] = overrides.pop("training.batch_size")
    if "training.base_lr" in overrides:
        overrides["training.split_base_lr"] = {}  # the flag holds for every split
    version = fields.get("version")
    if version is not None and not is_version(version):
        raise ConfigError(
            f"--VERSION={shown(version)} becomes part of file names: use letters, digits and . _ + = @ -, "
            f"at most 100 of them and {LONGEST_VERSION} bytes"
        )
    size = fields.get("size", default_size(fields["run"]))
    name = f"{task.name}_{size}_{time.strftime('%Y%m%d_%H%M%S')}"
    return Request(**fields, overrides=overrides, flags=flags, default_version=name)
