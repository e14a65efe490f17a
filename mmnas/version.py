"""The version of this package, read by the build and written into checkpoints and results."""

__version__ = "0.1.0"
