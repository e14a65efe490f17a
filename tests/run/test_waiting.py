"""How threads wait: idle ones soon sleep, unless the user wants otherwise; settled before torch is loaded."""

import os
import re
import subprocess
import sys

import pytest

from tests.stand_in import ROOT

SCRIPTS = [["train_vqa.py"], ["train_vgd.py"], ["train_itm.py"], ["-m", "mmnas", "train", "vqa"]]


def setting(name, command, **own):
    """Return the setting that torch's OpenMP library says it has taken."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_WAIT", "GOMP"))}
    command = [sys.executable, *command, "--help"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**env, "OMP_DISPLAY_ENV": "VERBOSE", **own},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(rf"{name}\s*=\s*'(\w+)'", done.stderr)
    if found is None:
        pytest.skip("another OpenMP library, which does not say what it does")
    return found[1]


@pytest.mark.parametrize("command", SCRIPTS, ids=" ".join)
def test_idle_threads_sleep_soon(command):
    assert setting("GOMP_SPINCOUNT", command) == "10000"


def test_a_users_own_setting_counts():
    assert setting("OMP_WAIT_POLICY", SCRIPTS[0], OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"
    assert setting("GOMP_SPINCOUNT", SCRIPTS[0], OMP_WAIT_POLICY="ACTIVE") != "10000"
    assert setting("GOMP_SPINCOUNT", SCRIPTS[0], GOMP_SPINCOUNT="77") == "77"


def test_importing_the_library_changes_nothing():
    code = "import os; before = dict(os.environ); import mmnas; mmnas.load; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
