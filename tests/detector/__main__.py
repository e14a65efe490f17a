"""`python -m tests.detector`: the detector against all recorded figures, all 300 boxes and the whole chain.

It takes about a minute per image on two cores.
"""

import argparse
import time

import numpy as np
import torch

from mmnas.detector.network import Detector, weight_shapes
from mmnas.detector.regions import Choice, best_confidence, cell_anchors, describe_given, detect, select
from tests.detector.comparing import check_described, check_samples
from tests.detector.conftest import Case
from tests.detector.stand_in_weights import all_weights, array, recorded


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.detector", description=__doc__)
    parser.add_argument("images", nargs="*", default=list(recorded()["images"]))
    weights = {name: torch.from_numpy(all_weights()[name]) for name in weight_shapes()}
    network = Detector.from_weights(weights, cell_anchors())
    for key in parser.parse_args().images:
        start = time.perf_counter()
        for what, error in check_image(key, network).items():
            print(f"{key:<14}{what:<24}{error:.1e}")
        print(f"{key:<14}{'all right, seconds':<24}{time.perf_counter() - start:.0f}", flush=True)


def check_image(key, network):
    """Check one image; return the largest errors by name."""
    case = Case(key, network)
    expected = case.recorded
    errors = {
        "input": check_samples(case.pixels[0], expected["blob"], 1e-4),
        "res4": check_samples(case.res4, expected["res4"], 1e-4),
    }
    boxes = torch.from_numpy(array(expected["proposals"]["boxes"]).copy())
    with torch.inference_mode():
        described = network.describe(case.res4, boxes)
    errors |= check_described(described, expected["heads"], 300)
    confidence = best_confidence((boxes / case.scale).numpy(), described.objects.numpy())
    same = {index: group[0] for group in expected["identical_features"] for index in group}
    alone = [index for index in range(300) if index not in same]
    errors["confidence"] = np.abs(confidence - array(expected["selection"]["max_conf"]))[alone].max()
    assert errors["confidence"] < 1e-4
    for settings, kept in expected["selection"]["cases"].items():
        chosen = select(confidence, choice_of(settings))
        assert {same.get(i, i) for i in chosen} == {same.get(i, i) for i in kept["keep"]}, settings
    return errors | check_chain(case, network) | check_given(case, network)


def choice_of(settings):
    least, most, threshold = settings.split(",")
    return Choice(int(least), int(most), float(threshold))


def check_chain(case, network):
    """From pixels to regions at once."""
    expected = case.recorded["selection"]["cases"]["10,100,0.2"]
    regions = detect(network, case.image, choice_of("10,100,0.2"))
    assert list(regions.features.shape) == expected["shapes"]["x"]
    assert sorted(regions.best["objects_id"].tolist()) == sorted(expected["objects_id"])
    assert sorted(regions.best["attrs_id"].tolist()) == sorted(expected["attrs_id"])
    if not case.recorded["identical_features"]:  # of two with the same features, either box may be kept
        assert abs(regions.boxes.sum(dtype=np.float64) / expected["bbox_sum"] - 1) < 1e-4
    error = abs(regions.features.sum(dtype=np.float64) / expected["x_sum"] - 1)
    assert error < 1e-5
    return {"sum of the chain": error}


def check_given(case, network):
    expected = case.recorded["bbox_feats_mode"]
    boxes = array(case.recorded["bboxes_mode"]["bbox"])[: expected["given_rows_of_bboxes_mode"]]
    regions = describe_given(network, case.image, boxes)
    norm = np.linalg.norm(regions.features, axis=1)
    error = np.abs(norm / array(expected["feature_norm"]) - 1).max()
    assert error < 1e-4 and regions.best["objects_id"].tolist() == expected["object"]
    assert regions.best["attrs_id"].tolist() == expected["attribute"]
    return {"given boxes": error}


if __name__ == "__main__":
    main()
