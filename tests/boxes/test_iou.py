"""Pairwise IoU and suppression: the fixture, hand-worked cases, and the extension against NumPy."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmnas.boxes import iou, nms, pairwise_iou, reference

ROOT = Path(__file__).parents[2]
PARITY = json.loads((ROOT / "tests" / "parity" / "boxes.json").read_text())
KERNELS = pytest.mark.parametrize("kernels", [iou, reference], ids=["compiled", "numpy"])
FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def awkward_boxes(count, dtype, seed):
    """Real-looking, integer, touching, identical, inside-out, empty, huge, infinite and NaN boxes."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-50, 600, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(-40, 300, (count, 2))], axis=1)
    boxes[1::4] = boxes[1::4].round()
    boxes[2::40] = boxes[2]
    boxes[3::40, 2:] = boxes[3::40, :2] - 1
    boxes[4::40] *= 1e30
    special = rng.choice([np.nan, np.inf, -np.inf, 0, -0.0, 1e-40], (len(boxes[5::20]),))
    boxes[5 + 20 * np.arange(len(special)), rng.integers(0, 4, len(special))] = special
    return boxes.astype(dtype)


@FLOATS
def test_parity(dtype):
    proposals, references = (np.array(PARITY[key], dtype) for key in ("proposals", "references"))
    result = pairwise_iou(proposals, references)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, PARITY["iou"], rtol=0, atol=1e-6)


@KERNELS
def test_iou_by_hand_counts_pixels_inclusively(kernels):
    boxes = np.array([[0.0, 0, 9, 9]])
    others = np.array(
        [
            [0.0, 0, 9, 9],  # the same
            [9, 9, 18, 18],  # one pixel shared: 1 / (100 + 100 - 1)
            [9.5, 0, 18.5, 9],  # half a column shared: 5 / (100 + 100 - 5)
            [10, 0, 19, 9],  # neighbours
            [5, 0, 14, 9],  # half: 50 / 150
            [3, 3, 3, 3],  # one pixel within
        ]
    )
    expected = [[1, 1 / 199, 5 / 195, 0, 1 / 3, 1 / 100]]
    np.testing.assert_allclose(kernels.pairwise_iou(boxes, others), expected, rtol=1e-15)


@KERNELS
def test_iou_of_what_is_no_box_is_zero(kernels):
    nan, inf = float("nan"), float("inf")
    boxes = np.array(
        [
            [5.0, 0, 4, 9],  # zero wide after the +1
            [9, 9, 0, 0],  # inside out: a negative width times a negative height
            [nan, 0, 9, 9],
            [0, 0, 9, nan],
            [-inf, -inf, inf, inf],
            [0, 0, 1e308, 1e308],
        ]
    )
    everything = np.concatenate([boxes, [[0, 0, 9, 9]]])
    assert (kernels.pairwise_iou(boxes, everything) == 0).all()
    assert (kernels.pairwise_iou(everything, boxes) == 0).all()


@FLOATS
def test_compiled_equals_numpy_to_the_bit(dtype):
    boxes = awkward_boxes(10_000, dtype, seed=7)
    others = np.concatenate([boxes[:60], awkward_boxes(60, dtype, seed=8)])
    result = iou.pairwise_iou(boxes, others)
    assert result.dtype == dtype
    assert np.isfinite(result).all()
    assert 0.05 < (result > 0).mean() < 0.95
    np.testing.assert_array_equal(result, reference.pairwise_iou(boxes, others))


@FLOATS
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_compiled_suppression_equals_numpy(dtype, threshold):
    boxes = awkward_boxes(1000, dtype, seed=9)
    kept = iou.suppress(boxes, threshold)
    assert kept.dtype == np.bool_
    np.testing.assert_array_equal(kept, reference.suppress(boxes, threshold))


@KERNELS
@FLOATS
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_iou_of_nothing(kernels, dtype, shape):
    result = kernels.pairwise_iou(np.zeros((shape[0], 4), dtype), np.zeros((shape[1], 4), dtype))
    assert result.shape == shape
    assert result.dtype == dtype


def test_other_numbers_become_float64():
    single, double = np.array([[0, 0, 9, 9]], np.float32), np.array([[0, 0, 9, 9.0]])
    assert pairwise_iou(single, single).dtype == np.float32
    for other in (double, [[0, 0, 9, 9]], single.astype(np.float16), single.astype(">f4")):
        result = pairwise_iou(single, other)
        assert result.dtype == np.float64
        assert result[0, 0] == 1


def test_strided_and_read_only_arrays_are_accepted():
    wide = awkward_boxes(50, np.float64, seed=1).repeat(2, axis=1)
    strided, packed = wide[::-1, ::2], wide[::-1, ::2].copy()
    packed.flags.writeable = False
    np.testing.assert_array_equal(pairwise_iou(strided, packed), pairwise_iou(packed, packed.copy()))


def test_arguments_are_not_changed():
    boxes, scores = awkward_boxes(50, np.float64, seed=2), np.arange(50.0)
    before = boxes.copy()
    pairwise_iou(boxes, boxes)
    nms(boxes, scores, 0.5)
    np.testing.assert_array_equal(boxes, before)
    np.testing.assert_array_equal(scores, np.arange(50.0))


def test_nms_by_hand():
    boxes = [
        [0, 0, 9, 9],  # suppressed by 1: 90 shared of 110
        [1, 0, 10, 9],  # the best
        [100, 100, 109, 109],  # alone
        [8, 0, 17, 9],  # 30 shared of 170 with box 1: stays; 20 with box 0
        [9, 0, 18, 9],  # suppressed by 3: 90 of 110
    ]
    kept = nms(boxes, [0.8, 0.9, 0.1, 0.7, 0.6], 0.5)
    assert kept.dtype == np.int64
    assert kept.tolist() == [1, 3, 2]


def test_nms_a_suppressed_box_suppresses_nobody():
    # A chain: each overlaps the next by 60 / 140 = 0.43, the one after by 20 / 180 = 0.11.
    boxes = [[0, 0, 9, 9], [4, 0, 13, 9], [8, 0, 17, 9]]
    assert nms(boxes, [3, 2, 1], 0.4).tolist() == [0, 2]


def test_nms_ties_go_to_the_lower_index():
    boxes = [[50, 50, 59, 59], [0, 0, 9, 9], [0, 0, 9, 9], [50, 50, 59, 59]]
    assert nms(boxes, [0.5, 0.5, 0.5, 0.5], 0.5).tolist() == [0, 1]


@FLOATS
@pytest.mark.parametrize("threshold, expected", [(0.25, [0, 1]), (0.2499, [0]), (0.0, [0]), (1.0, [0, 1])])
def test_nms_suppresses_only_above_the_threshold(dtype, threshold, expected):
    boxes = np.array([[0, 0, 9, 9], [6, 0, 15, 9]], dtype)  # 40 shared of 160
    assert nms(boxes, [2, 1], threshold).tolist() == expected


def test_nms_threshold_that_float32_rounds():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 6]], np.float32)  # 70 of 100
    assert nms(boxes, [2, 1], 0.7).tolist() == [0, 1]


def test_nms_empty_nan_scores_and_unsigned_scores():
    empty = nms(np.zeros((0, 4)), np.zeros(0), 0.5)
    assert empty.shape == (0,)
    assert empty.dtype == np.int64
    apart = [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]]
    assert nms(apart, [float("nan"), 0.1, 0.2], 0.5).tolist() == [2, 1, 0]
    assert nms(apart, np.array([0, 2, 1], np.uint8), 0.5).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pairwise_iou(np.zeros(4), np.zeros((1, 4))), r"boxes must have shape \(n, 4\).*\(4,\)"),
        (lambda: pairwise_iou(np.zeros((1, 4)), np.zeros((2, 5))), r"others must have shape .*\(2, 5\)"),
        (lambda: pairwise_iou([["a", "b", "c", "d"]], np.zeros((1, 4))), "boxes must be real numbers"),
        (lambda: pairwise_iou(np.zeros((1, 4), complex), np.zeros((1, 4))), "real numbers, not complex128"),
        (lambda: nms(np.zeros((2, 4)), np.zeros(3), 0.5), r"scores must have shape \(2,\).*\(3,\)"),
        (lambda: nms(np.zeros((2, 4)), np.zeros(2), 50), "threshold must be an IoU from 0 to 1, not 50"),
        (lambda: nms(np.zeros((2, 4)), np.zeros(2), float("nan")), "threshold .* not nan"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def run(*arguments, cwd=ROOT, **environment):
    completed = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    return completed


def test_without_the_extension_numpy_serves_and_warns_once():
    script = """
import logging, sys
sys.modules["mmnas.boxes.iou"] = None
logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
from mmnas.boxes import nms, pairwise_iou
print("imported", file=sys.stderr)
print(pairwise_iou([[0, 0, 9, 9]], [[5, 0, 14, 9]])[0, 0], pairwise_iou([[0, 0, 9, 9]], [[0, 0, 9, 9]])[0, 0])
print(nms([[0, 0, 9, 9], [0, 0, 9, 9]], [1, 2], 0.5))
"""
    completed = run("-c", script)
    assert completed.stdout == "0.3333333333333333 1.0\n[1]\n"
    imported, warning = completed.stderr.splitlines()  # silent at import, one line at first use
    assert imported == "imported"
    assert warning.startswith("WARNING mmnas.boxes the compiled box extension cannot be loaded")
    assert "build_ext --inplace" in warning


def test_with_the_extension_nothing_is_logged(caplog):
    with caplog.at_level(logging.DEBUG):
        pairwise_iou([[0, 0, 9, 9]], [[0, 0, 9, 9]])
    assert not caplog.records


def test_boxes_do_not_import_torch():
    assert run("-c", "import sys, mmnas.boxes; print('torch' in sys.modules)").stdout == "False\n"


def test_a_failing_compiler_is_a_notice_and_no_failure(tmp_path):
    (tmp_path / "mmnas" / "boxes").mkdir(parents=True)
    for name in ("setup.py", "mmnas/boxes/iou.pyx"):
        shutil.copy(ROOT / name, tmp_path / name)
    completed = run("setup.py", "build_ext", "--inplace", cwd=tmp_path, CC="false")
    notices = [line for line in completed.stderr.splitlines() if "mmnas.boxes.iou is not built" in line]
    assert len(notices) == 1
    assert "NumPy serves instead" in notices[0]
    assert not list(tmp_path.rglob("*.so"))
