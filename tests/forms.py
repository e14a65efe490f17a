"""The forms of a network: as it is built, and with the modules that are fast on a CPU or on a GPU."""

import pytest

from mmnas.models.cpu import use_cpu_kernels
from mmnas.models.gpu import use_gpu_kernels


def plain(network):
    return network


def cpu(network):
    use_cpu_kernels(network)
    return network


def gpu(network):
    use_gpu_kernels(network)
    return network


all_forms = pytest.mark.parametrize("form", [plain, cpu, gpu])
