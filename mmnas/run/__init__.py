"""From the command line to a finished run: flags, plan, lock, session, results."""

import os

from mmnas.errors import require_posix

require_posix()  # before the modules of this package are imported, some of which fail elsewhere
# Read once, when torch is loaded, which the modules of this package do. Idle threads spin shortly, then sleep, so
# that a run does not take the processors from itself and others on a busy machine. A user's own setting counts.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
