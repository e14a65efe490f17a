"""From the command line to a finished run: flags, plan, lock, session, results."""
