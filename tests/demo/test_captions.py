"""The demo world's captions and word vectors."""

import re
from collections import defaultdict

import numpy as np
from reading_demo_world import caption_ids, captions, fitting, load, questions

from mmnas.demo.scenes import SHAPES


def test_captions_come_in_fives_and_ids_in_both_forms(world):
    splits = {"f30k_precomp": ("train", "dev", "test"), "coco_precomp": ("train", "dev", "test", "testall")}
    for dataset, times in (("f30k_precomp", 1), ("coco_precomp", 5)):
        for split in splits[dataset]:
            text = (world / "itm" / dataset / f"{split}_caps.txt").read_text(encoding="utf-8")
            ids = caption_ids(world, dataset, split)
            assert len(text.splitlines()) == 5 * len(set(ids)) == 5 * len(ids) // times
            assert text.endswith("\n") == (split != "test")
    images = load(world / "itm" / "dataset_flickr30k.json")["images"]
    dev = [image["imgid"] for image in images if image["split"] == "val"]
    assert dev == caption_ids(world, "f30k_precomp", "dev")
    for image in images:
        assert (world / "flickr_rois_resnet101_fix36" / f"{image['filename']}.npz").is_file()
        assert [sentence["imgid"] for sentence in image["sentences"]] == 5 * [image["imgid"]]


def test_captions_name_what_is_there_and_nothing_else(world, scenes):
    lines = captions(world, "coco_precomp", "train")
    ids = caption_ids(world, "coco_precomp", "train")
    named = defaultdict(set)
    for line, image_id in zip(lines, ids, strict=True):
        for phrase in re.findall(r"[Aa] ((?:\w+ )?\w+ (?:" + "|".join(SHAPES) + r"))\b", line):
            (thing,) = fitting(phrase, scenes[image_id])
            named[image_id].add(thing)
    assert all(named[image_id] == set(scenes[image_id].things) for image_id in ids)
    assert any(not line.isascii() for line in lines)


def test_word_vectors_cover_the_world_and_group_classes(world):
    import spacy

    vocab = spacy.load(world / "word_vectors").vocab
    asked = [row["question"] for row in questions(world, "v2_OpenEnded_mscoco_train2014").values()]
    words = set(re.findall(r"\w+", " ".join(asked + captions(world, "f30k_precomp", "train")).lower()))
    assert all(vocab.has_vector(word) for word in words) and vocab.vectors_length == 300
    red, blue, cube = (vocab[word].vector for word in ("red", "blue", "cube"))
    assert np.corrcoef(red, blue)[0, 1] > 0.15 > abs(np.corrcoef(red, cube)[0, 1])
