"""Every published layout gives the same weights, and what is none of them is refused in one line."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmnas.detector.layouts import ANCHORS
from mmnas.detector.network import weight_shapes
from mmnas.detector.regions import cell_anchors
from mmnas.detector.weights import read_weights, write_weights
from mmnas.errors import DataError
from tests.detector.caffe_files import FACTOR, HEADS, RPN, airsplay, caffe_layers, write_layers
from tests.detector.small import small_detector, small_weights
from tests.detector.stand_in_weights import all_weights, names, recorded


def test_the_table_of_weights_is_that_of_the_published_names():
    unused = ("bbox_pred", "num_batches_tracked", "cell_anchors")
    expected = {name: shape for name, shape in names().items() if not any(part in name for part in unused)}
    assert {name: list(shape) for name, shape in weight_shapes().items()} == expected


def test_anchors_are_the_recorded_ones():
    assert cell_anchors().tolist() == recorded()["meta"]["cell_anchors"]


def test_a_caffemodel_of_full_size_is_read_to_the_bit(caffemodel):
    weights = read_weights(caffemodel)
    assert weights.tensors.keys() == weight_shapes().keys()
    for name, value in weights.tensors.items():
        assert np.array_equal(value.numpy(), all_weights()[name]), name
    assert torch.equal(weights.anchors, cell_anchors())


def test_what_convert_detector_wrote_is_the_same(caffemodel, weights_file):
    first, second = read_weights(caffemodel), read_weights(weights_file)
    assert first.digest == second.digest
    assert all(torch.equal(value, second.tensors[name]) for name, value in first.tensors.items())


# The other layouts, with few numbers


@pytest.fixture(autouse=True)
def _few_numbers(request):
    if "tmp_path" in request.fixturenames:
        with small_detector():
            yield
    else:
        yield


def tensors(weights):
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in weights.items()}


def with_anchors(anchors=None):
    return {**small_weights(), ANCHORS: cell_anchors().numpy() if anchors is None else anchors}


def write_torch(path, weights, **options):
    torch.save({"model": tensors(weights)}, path, **options)
    return path


def write_pickle(path, weights, protocol=2):
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "someone"}, protocol))
    return path


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_the_ports(options, tmp_path):
    weights = read_weights(write_torch(tmp_path / "bua-caffe-frcn-r101-k36.pth", with_anchors(), **options))
    for name, value in small_weights().items():
        assert np.array_equal(weights.tensors[name].numpy(), value), name
    bare = tmp_path / "bare.pth"
    torch.save(tensors(with_anchors()), bare)
    assert read_weights(bare).digest == weights.digest


def test_anchors_come_from_the_file(tmp_path):
    order = np.roll(np.arange(12), 3)
    weights = read_weights(write_torch(tmp_path / "a.pth", with_anchors(cell_anchors().numpy()[order])))
    assert np.array_equal(weights.anchors.numpy(), cell_anchors().numpy()[order])


@pytest.mark.parametrize("form", ["pickle 2", "pickle 5", "torch", "columns first", "no anchors"])
def test_airsplay(form, tmp_path):
    published = airsplay(with_anchors())
    if form == "no anchors":
        del published[ANCHORS]
    if form == "columns first":
        published = {name: np.asfortranarray(values) for name, values in published.items()}
    if form == "torch":
        path = tmp_path / "pytorch_model.bin"
        torch.save(tensors(published), path)
    else:
        path = write_pickle(tmp_path / "faster_rcnn_from_caffe_attr.pkl", published, 5 if form == "pickle 5" else 2)
    weights = read_weights(path).tensors
    for name, value in small_weights().items():
        if "objectness" in name:
            assert (weights[name][:12] == 0).all()
            assert np.array_equal(weights[name][12:].numpy(), value[12:] - value[:12])
        else:
            assert np.array_equal(weights[name].numpy(), value), name


def test_a_factor_of_zero_means_zeros(tmp_path):
    layers = small_layers()
    layers["bn_conv1"][2] = np.zeros(1, np.float32)
    weights = read_weights(write_caffe(tmp_path, layers))
    assert (weights.tensors["backbone.stem.conv1.norm.running_mean"] == 0).all()


def small_layers():
    """The layers of a `.caffemodel` of the small weights."""

    class Filled(dict):
        def __missing__(self, name):
            return np.zeros(0, np.float32)

    return {name: blobs for name, blobs in caffe_layers(Filled(small_weights())).items() if blobs[0].size}


def write_caffe(folder, layers):
    (folder / "a.caffemodel").write_bytes(b"".join(write_layers(layers)))
    return folder / "a.caffemodel"


def test_shapes_of_old_caffe_files(tmp_path):
    """Old files give four sides to every blob."""
    layers = {
        name: [blob.reshape((1,) * (4 - blob.ndim) + blob.shape) for blob in blobs]
        for name, blobs in small_layers().items()
    }
    weights = read_weights(write_caffe(tmp_path, layers))
    for name, value in small_weights().items():
        assert np.array_equal(weights.tensors[name].numpy(), value), name
    assert FACTOR != 1  # the norms were divided


# What is refused


def refused(path, match):
    with pytest.raises(DataError, match=match) as caught:
        read_weights(path)
    message = str(caught.value)
    assert str(path) in message and message.isprintable()


def without(name):
    return {key: value for key, value in with_anchors().items() if key != name}


PORTS = {
    "lacks roi_heads.box_predictor.attr_linear2.bias": without(f"{HEADS}.attr_linear2.bias"),
    "shape": {**with_anchors(), f"{HEADS}.attr_linear1.bias": np.zeros(7, np.float32)},
    "NaN": {**with_anchors(), f"{RPN}.conv.bias": np.full(512, np.nan, np.float32)},
    "negative": {**with_anchors(), "backbone.stem.conv1.norm.running_var": np.full(64, -1, np.float32)},
    "more blocks": {**with_anchors(), "backbone.res4.23.conv1.weight": np.ones(1, np.float32)},
    "without attributes": {"RCNN_base.0.weight": np.ones(1, np.float32)},
    "4 to 32 pixels": with_anchors(cell_anchors().numpy() / 16),
    "no 12 boxes": with_anchors(np.ones((3, 4), np.float32)),
    "lacks backbone": {"a": np.ones(1, np.float32)},
}


@pytest.mark.parametrize("match", PORTS)
def test_ports_that_do_not_fit(match, tmp_path):
    refused(write_torch(tmp_path / "a.pth", PORTS[match]), match)


def test_anchors_of_another_detector(tmp_path):
    published = {**airsplay(with_anchors()), ANCHORS: np.tile(np.float32([0, 0, 99, 99]), (12, 1))}
    refused(write_pickle(tmp_path / "a.pkl", published), "not those of the published detector")


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(write_pickle(tmp_path / "a.pkl", {**airsplay(with_anchors()), "x": Evil()}), "asks for")
    torch.save({"model": Evil()}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "nothing in it was run")
    assert not (tmp_path / "ran").exists()


def test_files_of_other_kinds(tmp_path):
    refused(tmp_path / "absent.pth", "detector not found")
    for name, content in {"empty": b"", "text": b"hello world\n" * 9, "cut": b"\xa2\x06\xff\xff\x01"}.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "not a usable detector")
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    refused(tmp_path / "foreign.safetensors", "not written by convert-detector")
    path = write_torch(tmp_path / "a.pth", with_anchors())
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.namelist():
            packed.writestr(entry, archive.read(entry))
    refused(tmp_path / "b", "compressed")


def test_a_changed_number_is_found_by_the_digest(tmp_path):
    path = tmp_path / "a.safetensors"
    write_weights(path, read_weights(write_caffe(tmp_path, small_layers())))
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    values = load_file(path)
    values[f"{RPN}.conv.bias"][0] += 1
    save_file(values, path, header["__metadata__"])
    refused(path, "digest")
