"""Comparisons with the recorded figures, to the tolerances that two float32 implementations reach."""

import numpy as np

from tests.detector.stand_in_weights import array


def check_samples(values, expected, tolerance):
    """Compare a tensor's shape, statistics and samples with those recorded."""
    assert list(values.shape) == expected["shape"]
    flat = values.numpy().ravel()
    samples = np.abs(flat[expected["samples_index"]] - expected["samples"]).max()
    assert samples < tolerance
    assert abs(flat.mean(dtype=np.float64) - expected["mean"]) < tolerance
    assert abs(flat.min() - expected["min"]) < tolerance and abs(flat.max() - expected["max"]) < 2 * tolerance
    return samples


def check_described(described, heads, count):
    """Compare the first boxes' features, classes and attributes with those recorded; return the largest errors."""
    features = described.features.numpy()
    mean, norm = array(heads["feature_mean"])[:count], array(heads["feature_norm"])[:count]
    channels = array(heads["feature_at_channels"])[:count]
    objects, attributes = described.objects.numpy()[:, 1:], described.attributes.numpy()[:, 1:]
    assert described.objects.argmax(dim=1).tolist() == heads["argmax_all"][:count]
    assert objects.argmax(axis=1).tolist() == heads["object"][:count]
    assert attributes.argmax(axis=1).tolist() == heads["attribute"][:count]
    errors = {
        "feature mean": (np.abs(features.mean(axis=1) / mean - 1).max(), 1e-5),
        "feature norm": (np.abs(np.linalg.norm(features, axis=1) / norm - 1).max(), 1e-5),
        "feature channels": (np.abs(features[:, heads["feature_channels"]] - channels).max(), 1e-5),
        "object probability": (np.abs(objects.max(axis=1) - array(heads["object_conf"])[:count]).max(), 1e-4),
        "attribute probability": (
            np.abs(attributes.max(axis=1) - array(heads["attribute_conf"])[:count]).max(),
            1e-4,
        ),
    }
    for what, (error, tolerance) in errors.items():
        assert error < tolerance, f"{what}: {error}"
    return {what: float(error) for what, (error, _) in errors.items()}
