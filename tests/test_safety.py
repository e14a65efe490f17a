"""No file that is read may run code, and no fault may pass in silence: read from the source's syntax trees."""

import ast

import pytest

from tests.stand_in import ROOT
from tests.test_imports import SCRIPTS, SOURCES, dotted_name, tree_of

READ = [*SOURCES, *SCRIPTS, *sorted((ROOT / "benchmarks").glob("*.py"))]
# Modules under the names that the project gives them, so that `import numpy as n` hides nothing.
REQUIRED = {
    "torch.load": ("weights_only", "True"),
    "numpy.load": ("allow_pickle", "False"),
    "numpy.lib.format.read_array": ("allow_pickle", "False"),
}
FORBIDDEN = {
    "exit", "quit", "os._exit", "eval", "exec", "compile", "__import__", "os.system", "os.popen",
    "yaml.load", "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load", "marshal.load", "marshal.loads", "shelve.open", "dill.load", "joblib.load",
    "pandas.read_pickle",
    "torch.serialization.add_safe_globals", "torch.serialization.safe_globals", "torch.package.PackageImporter",
    "torch.hub.load", "torch.jit.load", "torch.export.load",
}  # fmt: skip
UNPICKLERS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._Unpickler", "_pickle.Unpickler"}
PICKLES = ROOT / "mmnas" / "data" / "pickles.py"  # alone may subclass the unpickler, to which it leaves no class
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}


def faults(path, tree=None):
    """Yield what a file does that could run what it reads."""
    tree = tree or tree_of(path)
    names = imported_names(tree)
    bases = {id(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from call_faults(node, names)
        if isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Load):
            whole = full_name(node, names)
            if whole in UNPICKLERS and not (path == PICKLES and id(node) in bases):
                yield f"line {node.lineno}: {whole}"
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield f"line {node.lineno}: star import"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: bare except"


def call_faults(call, names):
    whole = full_name(call.func, names)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    key, value = REQUIRED.get(whole, (None, None))
    if key and keywords.get(key) != value:
        yield f"line {call.lineno}: {whole} without {key}={value}"
    if whole in FORBIDDEN:
        yield f"line {call.lineno}: {whole}"
    if whole.endswith("load_state_dict") and keywords.get("strict", "True") != "True":
        yield f"line {call.lineno}: {whole} with strict={keywords['strict']}"
    if whole.startswith("subprocess.") and keywords.get("shell", "False") != "False":
        yield f"line {call.lineno}: {whole} with shell={keywords['shell']}"
    if whole.startswith("yaml.") and "Loader" in keywords:
        loader = next(keyword.value for keyword in call.keywords if keyword.arg == "Loader")
        if full_name(loader, names) not in SAFE_LOADERS:
            yield f"line {call.lineno}: {whole} with Loader={keywords['Loader']}"


def imported_names(tree):
    """Return what each name that a file imports stands for: `np` for `numpy`, `load` for `torch.load`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node, names):
    """Return the dotted name of an expression with its imported part written out."""
    first, *rest = ast.unparse(node).split(".")
    return ".".join([names.get(first, first), *rest]).removeprefix("builtins.")


@pytest.mark.parametrize("path", READ, ids=dotted_name)
def test_nothing_that_is_read_can_run(path):
    assert list(faults(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "exit(-1)", "model.load_state_dict(state, strict=False)", "from os import *",
        "try:\n    pass\nexcept:\n    pass",
        "eval('1')", "exec('1')", "import builtins\nbuiltins.eval('1')", "import os\nos.system('ls')",
        "from os import system\nsystem('ls')", "import os as o\no.popen('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "from subprocess import run as r\nr('ls', shell=yes)",
        "import torch\ntorch.load(path)", "import torch\ntorch.load(path, weights_only=False)",
        "from torch import load\nload(path)", "from torch import load as take\ntake(path, weights_only=flag)",
        "import numpy as np\nnp.load(path)", "import numpy as n\nn.load(path, allow_pickle=True)",
        "from numpy.lib import format\nformat.read_array(file, allow_pickle=True)",
        "import yaml\nyaml.load(text)", "import yaml\nyaml.full_load(text)",
        "import yaml as y\ny.unsafe_load(text)",
        "import yaml\nyaml.parse(text, Loader=yaml.UnsafeLoader)", "import yaml\nyaml.parse(text, Loader=loader)",
        "import pickle\npickle.loads(text)", "from pickle import load\nload(file)",
        "import pickle\nclass Own(pickle.Unpickler):\n    pass", "import pickle as p\nread = p.load",
        "import torch\ntorch.serialization.add_safe_globals([Own])",
    ],
)  # fmt: skip
def test_each_of_these_would_be_found(source):
    assert len(list(faults(None, ast.parse(source)))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()", "sys.exit(main())", "import re\nre.compile('a')", "import torch\ntorch.compile(model)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)", "import yaml\nyaml.parse(text, Loader=yaml.SafeLoader)",
        "import subprocess\nsubprocess.run(['ls'])", "import pickle\npickle.dumps(1)",
        "import json\njson.load(file)",
    ],
)  # fmt: skip
def test_safe_calls_are_no_faults(source):
    assert list(faults(None, ast.parse(source))) == []
