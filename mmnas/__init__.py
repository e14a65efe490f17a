"""MMNas: deep multimodal neural architecture search (Yu et al., ACM MM 2020).

`mmnas.load(path)` gives a trained model with its vocabulary and genotype, ready to be called on arrays.
"""

from typing import TYPE_CHECKING, Any

from mmnas.errors import require_posix
from mmnas.version import __version__

__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from mmnas.predict.loaded import load


def __getattr__(name: str) -> Any:
    """Import `load`, and with it torch, only when it is asked for."""
    if name == "load":
        require_posix()
        from mmnas.predict.loaded import load

        return load
    raise AttributeError(f"module 'mmnas' has no attribute '{name}'")
