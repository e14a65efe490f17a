"""The check that a file is refused as it should be."""

import pytest

from mmnas.errors import MMNasError
from tests.hostile.feeding import is_clear


def refused(read, name, content, match="."):
    """Read a file by the fixture `read`; fail unless it is refused in one clear line, before memory is claimed."""
    with pytest.raises(MMNasError, match=match) as caught:
        read(name, content)
    message = str(caught.value)
    assert is_clear(message)
    assert "Memory" not in message and "allocate" not in message, "it was claimed before it was refused"
