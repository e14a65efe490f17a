"""The detector with stand-in weights, built once."""

import pytest
import torch

from mmnas.detector.network import Detector, weight_shapes
from mmnas.detector.regions import cell_anchors, network_input
from mmnas.detector.weights import read_weights, write_weights
from tests.detector.caffe_files import write_caffemodel
from tests.detector.stand_in_weights import all_weights, image, recorded


@pytest.fixture(scope="session")
def network():
    weights = {name: torch.from_numpy(all_weights()[name]) for name in weight_shapes()}
    return Detector.from_weights(weights, cell_anchors())


@pytest.fixture(scope="session")
def caffemodel(tmp_path_factory):
    """A file of full size, as Caffe writes it."""
    path = tmp_path_factory.mktemp("detector") / "resnet101_faster_rcnn_final.caffemodel"
    write_caffemodel(path, all_weights())
    return path


@pytest.fixture(scope="session")
def weights_file(caffemodel):
    """The same as convert-detector writes it."""
    path = caffemodel.with_suffix(".safetensors")
    write_weights(path, read_weights(caffemodel))
    return path


@pytest.fixture(scope="session", params=["synthetic", "grace_hopper", "chelsea"])
def case(request, network):
    """One recorded image: its figures, and what the network computes of it up to the proposals."""
    return Case(request.param, network)


class Case:
    def __init__(self, key, network):
        self.recorded = recorded()["images"][key]
        self.image = image(key)
        self.pixels, self.scale = network_input(self.image, torch.device("cpu"))
        with torch.inference_mode():
            self.res4, self.foreground, self.offsets = network(self.pixels)
