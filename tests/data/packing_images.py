"""Small images for the tests of feature stores, in the published file format."""

import numpy as np

SIZE = 8  # D


def image_arrays(image_id: int, regions: int | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an image of 1 to 3 regions, other values for each id."""
    regions = regions or image_id % 3 + 1
    x = np.random.default_rng(image_id).standard_normal((SIZE, regions)).astype(np.float32)
    boxes = np.array([[1, 2, 30, 40]], np.float32).repeat(regions, axis=0) + image_id % 50
    return {"x": x, "bbox": boxes, "image_h": np.array(480), "image_w": np.array(640)}


def write_images(folder, image_ids):
    """Write a folder of npz files; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in image_ids:
        np.savez(folder / f"COCO_train2014_{image_id:012d}.jpg.npz", **image_arrays(image_id))
    return folder


def check_image(regions, image_id, dtype=np.float32):
    """Assert that these are the regions of an image of `write_images`."""
    expected = image_arrays(image_id)
    np.testing.assert_array_equal(regions.features, expected["x"].T.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(regions.boxes, expected["bbox"])
    assert regions.image_size.tolist() == [480, 640]
    assert {array.dtype for array in (regions.features, regions.boxes, regions.image_size)} == {np.dtype("f4")}
