"""The version of this package: read by the build, written into checkpoints and results."""

__version__ = "0.2.0"
