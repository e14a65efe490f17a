"""How much faster the compiled IoU is than NumPy: 100 x 1000 boxes, the forms timed in turns.

    python3 -m benchmarks.boxes

Two NumPy forms: the usual broadcasting one, and `mmnas.boxes.reference`, which serves where the extension
is not built. Each ratio compares two timings of the same round.
"""

import os
import platform
import time
from collections.abc import Callable

import numpy as np

from benchmarks.timing import Row
from mmnas.boxes import iou, reference

ROUNDS = 300
WARM_UP = 20


def usual_broadcasting(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU as it is commonly written, over corner pairs (N, K, 2)."""
    corner = np.maximum(boxes[:, None, :2], others[None, :, :2])
    far_corner = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(far_corner - corner + 1, 0)
    intersection = sides[..., 0] * sides[..., 1]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    other_areas = np.prod(others[:, 2:] - others[:, :2] + 1, axis=1)
    return intersection / (areas[:, None] + other_areas - intersection)


def random_boxes(count: int, dtype: type, seed: int) -> np.ndarray:
    """Boxes of up to 300 pixels in an image of about 640 x 480."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, (640, 480), (count, 2))
    return np.concatenate([corners, corners + rng.uniform(0, 300, (count, 2))], axis=1).astype(dtype)


def interleaved(functions: list[Callable], *arguments: np.ndarray) -> np.ndarray:
    """Seconds (rounds, functions): every round times each function once, A B C A B C."""
    seconds = np.empty((WARM_UP + ROUNDS, len(functions)))
    for row in seconds:
        for column, function in enumerate(functions):
            start = time.perf_counter()
            function(*arguments)
            row[column] = time.perf_counter() - start
    return seconds[WARM_UP:]


def table_row(label: str, compiled: np.ndarray, plain: np.ndarray) -> str:
    """One line: both medians in microseconds, and how the ratios of the rounds spread."""
    ratio = plain / compiled
    medians = f"{np.median(compiled) * 1e6:>7.0f} us{np.median(plain) * 1e6:>9.0f} us"
    return f"{label:<18}{medians}{np.median(ratio):>22.1f}{ratio.min():>6.1f}{ratio.max():>6.1f}"


def rows(quick: bool = False) -> list[Row]:
    """Compare with the usual NumPy form, float32."""
    boxes, others = random_boxes(100, np.float32, seed=1), random_boxes(1000, np.float32, seed=2)
    seconds = interleaved([iou.pairwise_iou, usual_broadcasting], boxes, others)
    return [Row("IoU of 100 x 1000 boxes, against NumPy", "calls/s", *(1 / seconds.T))]


def main() -> None:
    """Time, compare, print the table."""
    print(f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores, NumPy {np.__version__}")
    print(f"{'100 x 1000 boxes':<18}{'compiled':>10}{'NumPy':>12}   times faster: median   min   max")
    for dtype in (np.float32, np.float64):
        boxes, others = random_boxes(100, dtype, seed=1), random_boxes(1000, dtype, seed=2)
        forms = {"usual": usual_broadcasting, "reference": reference.pairwise_iou}
        seconds = interleaved([iou.pairwise_iou, *forms.values()], boxes, others)
        for name, plain in zip(forms, seconds[:, 1:].T, strict=True):
            print(table_row(f"{dtype.__name__} {name}", seconds[:, 0], plain))


if __name__ == "__main__":
    main()
