"""Builds the Cython extension of `mmnas.boxes`; everything else about the package is in pyproject.toml.

    python3 setup.py build_ext --inplace

Without Cython or a working C compiler the installation still succeeds: the NumPy form serves.
"""

import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

# No -march=native, since wheels travel. No contraction to fused multiply-add, so that the extension and
# the NumPy form agree to the bit; no floating-point traps, which would forbid vectorising the division.
GCC_FLAGS = ["-O3", "-ffp-contract=off", "-fno-trapping-math"]


class OptionalBuildExt(build_ext):
    """The usual build_ext, for which a failed compilation is one line of notice."""

    def build_extension(self, ext: Extension) -> None:
        """Build `ext`, or say that the package goes without."""
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError):
            self.warn(f"{ext.name} is not built (no working Cython or C compiler): NumPy serves instead")


setup(
    ext_modules=[
        Extension(
            "mmnas.boxes.iou",
            ["mmnas/boxes/iou.pyx"],
            extra_compile_args=[] if sys.platform == "win32" else GCC_FLAGS,
            optional=True,
        )
    ],
    cmdclass={"build_ext": OptionalBuildExt},
)
