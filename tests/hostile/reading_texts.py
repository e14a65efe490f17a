"""Valid files of text, JSON and YAML, and the refs pickle; and everything that is done with their content."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mmnas.config import load_config, read_overrides
from mmnas.data.pickles import read_plain_pickle
from mmnas.data.refs import find_expressions
from mmnas.data.scan_precomp import read_split
from mmnas.data.vqa_json import answer_vocabulary, check_pairs, read_annotations, read_questions, soft_targets
from mmnas.files import read_json
from mmnas.genotype import read_genotypes
from mmnas.metrics.vqa_accuracy import FORMS, vqa_accuracy
from mmnas.search.history import read_history
from mmnas.tasks.submission import find_faults
from mmnas.text.tokenizer import tokenize
from mmnas.text.vocabulary import Vocabulary
from tests.conftest import GENOTYPE


def json_file(path: Path, content: Any) -> Path:
    """Write `content` to `path`, making its folder; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# Architectures and settings


def write_genotype(folder: Path) -> Path:
    return json_file(folder / "genotype.json", {"epoch0": GENOTYPE, "epoch3": GENOTYPE})


def read_genotype_file(folder: Path) -> None:
    for genotype in read_genotypes(folder / "genotype.json").values():
        assert genotype.from_dict(genotype.to_dict()) == genotype


def write_history_file(folder: Path) -> Path:
    rows = {"enc": [[0.25, 0.75]], "dec": [[0.5, 0.5], [1.0, 0.0]]}
    counts = {"loss": 1.5, "architecture_steps": 3, "changed": 0, "unchanged_epochs": 1}
    candidates = {"enc": ["self_att_64", "feed_forward"], "dec": ["guided_att_64", "feed_forward"]}
    epochs = [{"epoch": epoch, **counts, "probabilities": rows} for epoch in (1, 2)]
    return json_file(folder / "history.json", {"candidates": candidates, "epochs": epochs})


CONFIG = """\
# what a user changes
model: {hidden_size: 64, dropout: 0.2}
data:
  max_tokens: 14
  dataset: ""
training:
  base_lr: 1e-4
  epochs: 3
  decay_epochs: [1, 2]
  split_base_lr: {train+val: 5.0e-5}
  betas: [0.9, 0.98]
  optimizer: adam
  compile: false
paths:
  data: ./data
  features: null
"""


def write_config(folder: Path) -> Path:
    path = folder / "own.yml"
    path.write_text(CONFIG)
    return path


def read_config(folder: Path) -> None:
    file = str(folder / "own.yml")
    read_overrides(file)
    config = load_config("vqa", "tiny", split="train", version="x", file=file)
    assert config.from_dict(config.to_dict()) == config
    json.dumps(config.to_dict(), ensure_ascii=False).encode()


# Texts and answers


def read_history_file(folder: Path) -> None:
    read_history(folder / "history.json")


def write_questions(folder: Path) -> Path:
    texts = ("What color is the cat?", "Is it a dog?", "How many?")
    questions = [{"question_id": 10 + n, "image_id": n, "question": text} for n, text in enumerate(texts)]
    return json_file(folder / "questions.json", {"info": {}, "questions": questions})


def read_question_file(folder: Path) -> None:
    tokens = [tokenize(question.text) for question in read_questions(folder / "questions.json")]
    vocabulary = Vocabulary.from_token_lists(tokens)
    assert all(vocabulary.encode(row, 14) for row in tokens)


def write_annotations(folder: Path) -> Path:
    write_questions(folder)
    answers = [
        {"answer": text, "answer_id": n} for n, text in enumerate(["yes"] * 6 + ["a dog", "2", "no.", "1,000"])
    ]
    kinds = {"question_type": "is", "answer_type": "yes/no", "answers": answers}
    entries = [{"question_id": 10 + n, "image_id": n, "multiple_choice_answer": "yes", **kinds} for n in range(3)]
    del entries[2]["multiple_choice_answer"]
    return json_file(folder / "annotations.json", {"annotations": entries})


def read_annotation_file(folder: Path) -> None:
    questions, path = read_questions(folder / "questions.json"), folder / "annotations.json"
    annotations = read_annotations(path)
    index = {answer: place for place, answer in enumerate(answer_vocabulary(annotations, 1)[0])}
    for annotation in annotations:
        assert all(0 < score <= 1 for score in soft_targets(annotation.answers, index).values())
    for form in FORMS:
        score = vqa_accuracy({annotation.question_id: "yes" for annotation in annotations}, annotations, form)
        assert 0 <= score["overall"] <= 100
    check_pairs(questions, annotations, "questions.json", path)


def write_submission(folder: Path) -> Path:
    return json_file(folder / "result.json", [{"answer": "yes", "question_id": n} for n in range(4)])


def read_submission(folder: Path) -> None:
    for fault in find_faults(read_json(folder / "result.json", "result file"), range(4), ["yes"]):
        assert "\n" not in fault
        fault.encode()


# Referring expressions


def write_refs(folder: Path) -> tuple[Path, Path, Path]:
    """Write all files of RefCOCO; return instances, refs and the processed val split."""
    splits = ("train", "val", "testA", "testB")
    sentences = [{"tokens": ["red", "ball"], "raw": "Red ball", "sent_id": 5, "sent": "red ball"}]
    refs = [
        {"ann_id": n, "ref_id": n, "image_id": 7, "split": split, "sentences": sentences, "sent_ids": [5]}
        for n, split in enumerate(splits)
    ]
    boxes = [{"id": n, "image_id": 7, "bbox": [1.5, 2, 3, 4]} for n in range(4)]
    place = folder / "refs" / "refcoco"
    instances = json_file(place / "instances.json", {"annotations": boxes})
    (place / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    processed = [{"image_id": 7, "ref_id": 1, "sent_id": 5, "tokens": ["red", "ball"], "bbox": [1.5, 2, 3, 4]}] * 2
    return instances, place / "refs(unc).p", json_file(place / "val.json", processed)


def read_refs(folder: Path) -> None:
    for expressions in find_expressions(folder, "refcoco", ["train"]).values():
        assert all(expression.box[2] > expression.box[0] for expression in expressions)


def read_plain(folder: Path) -> None:
    read_plain_pickle(folder / "refs" / "refcoco" / "refs(unc).p", "refs file")


def read_processed(folder: Path) -> None:
    for expression in find_expressions(folder, "refcoco", ["val"])["val"]:
        assert len(expression.box) == 4 and Vocabulary.from_token_lists([expression.tokens])


# Captions


def write_captions(folder: Path) -> tuple[Path, Path, Path]:
    """Write a split of Flickr30K; return captions, ids and the index of images."""
    place = folder / "itm" / "f30k_precomp"
    place.mkdir(parents=True)
    captions, ids = place / "train_caps.txt", place / "train_ids.txt"
    captions.write_text("".join(f"A dog, number {n}, runs.\n" for n in range(10)))
    ids.write_text("3\n4\n")
    images = [{"imgid": n, "filename": f"{1000 + n}.jpg"} for n in (3, 4)]
    return captions, ids, json_file(folder / "itm" / "dataset_flickr30k.json", {"images": images})


def read_caption_files(folder: Path) -> None:
    split = read_split(folder, "flickr", "train")
    assert split.image_ids.dtype == np.int64 and len(split.texts) == 5 * len(split.image_ids)
    Vocabulary.from_token_lists(map(tokenize, split.texts))
