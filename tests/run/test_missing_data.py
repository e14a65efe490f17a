"""What is missing is said together, with the command that lists all of it; odd boxes are pointed out."""

import shutil

import numpy as np


def test_all_that_is_missing_is_said_together(place, run, tmp_path):
    data = tmp_path / "data"
    (data / "vqa").mkdir(parents=True)
    name = "v2_OpenEnded_mscoco_val2014_questions.json"
    shutil.copy(place.data / "vqa" / name, data / "vqa")
    annotations = "v2_mscoco_val2014_annotations.json"
    shutil.copy(place.data / "vqa" / annotations, data / "vqa")
    done = run(place, *place.train_flags("x"), f"--DATA_PATH={data}")
    assert done.code == 2
    for missing in (
        "train2014_questions.json",
        "train2014_annotations.json",
        "coco_extract",
        "word vectors",
        "mmnas check-data vqa",
    ):
        assert missing in done.output.splitlines()[-1]


def test_a_missing_image_is_said_with_the_name_of_its_file(place, run, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(
        place.data, data, ignore=shutil.ignore_patterns("images", "rois*", "flickr*", "vgd*", "detfeat*")
    )
    gone = sorted((data / "coco_extract/train2014").glob("*.npz"))[0]
    gone.unlink()
    done = run(place, *place.train_flags("x"), f"--DATA_PATH={data}")
    number = int(gone.name.split(".")[0].rpartition("_")[2])
    assert done.code == 2 and f"{number}.npz or COCO_<split>_{number:012d}.jpg.npz" in done.output


def test_boxes_between_0_and_1_draw_a_warning(grounded, run, place, tmp_path):
    folder = tmp_path / "refcoco_unc"
    folder.mkdir()
    for path in (grounded.data / "vgd_coco/fix100/refcoco_unc").glob("*.npz"):
        with np.load(path) as file:
            arrays = dict(file)
        arrays["bbox"] = arrays["bbox"] / np.tile([arrays["image_w"], arrays["image_h"]], 2).astype(np.float32)
        np.savez(folder / path.name, **arrays)
    checkpoint = f"--CKPT_PATH={grounded.checkpoint('base', 'epoch2.pkl')}"
    place.task = "vgd"
    done = run(place, "--RUN=val", checkpoint, "--VERSION=x", "--GPU=cpu", f"--FEAT_PATH={folder}")
    assert "lie within 0..1: boxes must be in pixels" in done.output
