"""The commands of `python -m mmnas`, one module each.

A command module has `add(commands)`: it adds its parser and sets `run`, which takes the parsed options and
returns the exit code.
"""
