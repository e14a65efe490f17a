"""The two forms of a network: as it is built, and with the modules that are fast on a CPU."""

import pytest

from mmnas.models.cpu import use_cpu_kernels


def plain(network):
    return network


def cpu(network):
    use_cpu_kernels(network)
    return network


both_forms = pytest.mark.parametrize("form", [plain, cpu], ids=["plain", "cpu"])
