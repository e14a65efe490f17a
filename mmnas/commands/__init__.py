"""The commands of `mmnas`, one module each.

A command module defines `add(commands)`, which adds its parser and sets `run`: a function that takes the parsed
options and returns the exit code.
"""
