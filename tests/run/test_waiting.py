"""How threads wait: idle ones sleep, unless the user wants otherwise. It must be settled before torch is loaded."""

import os
import re
import subprocess
import sys

import pytest

from tests.stand_in import ROOT

SCRIPTS = [["train_vqa.py"], ["train_vgd.py"], ["train_itm.py"], ["-m", "mmnas", "train", "vqa"]]


def policy(command, **own):
    """Return the policy that torch's OpenMP library says it has taken."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_WAIT", "GOMP"))}
    command = [sys.executable, *command, "--help"]
    done = subprocess.run(
        command, cwd=ROOT, env={**env, "OMP_DISPLAY_ENV": "TRUE", **own}, capture_output=True, text=True, check=True
    )
    found = re.search(r"OMP_WAIT_POLICY\s*=\s*'(\w+)'", done.stderr)
    if found is None:
        pytest.skip("another OpenMP library, which does not say what it does")
    return found[1]


@pytest.mark.parametrize("command", SCRIPTS, ids=" ".join)
def test_idle_threads_sleep(command):
    assert policy(command) == "PASSIVE"


def test_a_users_own_setting_counts():
    assert policy(SCRIPTS[0], OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


def test_importing_the_library_changes_nothing():
    code = "import os; before = dict(os.environ); import mmnas; mmnas.load; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
