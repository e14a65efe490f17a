"""What the tests of named files share: little memory, and the reading of a file that replaces a valid one."""

import resource

import pytest

from tests.hostile.feeding import limit_memory, peak_memory, time_limit
from tests.hostile.readers import READERS


@pytest.fixture
def little_memory():
    """Let a test claim and use little memory, for a few seconds."""
    before, start = resource.getrlimit(resource.RLIMIT_AS), peak_memory()
    limit_memory(600)
    try:
        with time_limit(20):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert peak_memory() - start < 150


@pytest.fixture
def read(tmp_path):
    """Read the files of a reader, the one that may be altered replaced."""

    def call(name, content):
        path = READERS[name].write(tmp_path)
        path.write_bytes(content(path) if callable(content) else content)
        READERS[name].read(tmp_path)

    return call
