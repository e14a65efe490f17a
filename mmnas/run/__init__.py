"""From the command line to a finished run: flags, plan, lock, session, results."""

from mmnas.errors import require_posix

require_posix()  # before the modules of this package are imported, some of which fail elsewhere
