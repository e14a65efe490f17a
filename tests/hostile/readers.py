"""The readers of what users bring: for each a valid file, and everything that is done with its content."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hostile import reading_arrays as arrays
from tests.hostile import reading_detector as detector
from tests.hostile import reading_texts as texts


@dataclass(frozen=True)
class Reader:
    """How to have a valid file, and how to read it.

    `write` fills an empty folder and returns the file to alter, whose `form` is a key of `mutate_binary.FORMS`;
    `read` reads the folder as a run would.
    """

    form: str
    write: Callable[[Path], Path]
    read: Callable[[Path], None]


def _nth(write: Callable[[Path], tuple[Path, ...]], place: int) -> Callable[[Path], Path]:
    """Return what writes all files of a group and returns the one at `place`."""
    return lambda folder: write(folder)[place]


READERS: dict[str, Reader] = {
    "genotype": Reader("json", texts.write_genotype, texts.read_genotype_file),
    "search history": Reader("json", texts.write_history_file, texts.read_history_file),
    "config": Reader("yaml", texts.write_config, texts.read_config),
    "questions": Reader("json", texts.write_questions, texts.read_question_file),
    "annotations": Reader("json", texts.write_annotations, texts.read_annotation_file),
    "result": Reader("json", texts.write_submission, texts.read_submission),
    "instances": Reader("json", _nth(texts.write_refs, 0), texts.read_refs),
    "refs": Reader("pickle", _nth(texts.write_refs, 1), texts.read_refs),
    "plain pickle": Reader("pickle", _nth(texts.write_refs, 1), texts.read_plain),
    "processed refs": Reader("json", _nth(texts.write_refs, 2), texts.read_processed),
    "captions": Reader("text", _nth(texts.write_captions, 0), texts.read_caption_files),
    "caption ids": Reader("text", _nth(texts.write_captions, 1), texts.read_caption_files),
    "flickr index": Reader("json", _nth(texts.write_captions, 2), texts.read_caption_files),
    "npz": Reader("npz", arrays.write_npz, arrays.read_npz_file),
    "mask rcnn npz": Reader("npz", arrays.write_mask_rcnn, arrays.read_mask_rcnn),
    "store header": Reader("json", _nth(arrays.write_store, 0), arrays.read_store),
    "store index": Reader("bytes", _nth(arrays.write_store, 1), arrays.read_store),
    "store features": Reader("bytes", _nth(arrays.write_store, 2), arrays.read_store),
    "glove text": Reader("text", arrays.write_glove, arrays.read_glove),
    "glove zip": Reader("zip", arrays.write_glove_zip, arrays.read_glove_zip),
    "spacy table": Reader("npy", _nth(arrays.write_spacy, 0), arrays.read_spacy),
    "spacy index": Reader("msgpack", _nth(arrays.write_spacy, 1), arrays.read_spacy),
    "spacy settings": Reader("json", _nth(arrays.write_spacy, 2), arrays.read_spacy),
    "checkpoint": Reader("torch", arrays.write_checkpoint, arrays.read_checkpoint),
    "released checkpoint": Reader("torch", arrays.write_published, arrays.read_published),
    "old released checkpoint": Reader("torch", arrays.write_old_published, arrays.read_published),
    "exported settings": Reader("json", _nth(arrays.write_exported, 0), arrays.read_exported_settings),
    "exported weights": Reader("bytes", _nth(arrays.write_exported, 1), arrays.read_exported),
    "caffemodel": Reader("bytes", detector.write_caffe, detector.read_detector),
    "detector pth": Reader("torch", detector.write_port, detector.read_detector),
    "detector pkl": Reader("pickle", detector.write_airsplay, detector.read_detector),
    "detector bin": Reader("torch", detector.write_hub, detector.read_detector),
    "detector safetensors": Reader("bytes", detector.write_converted, detector.read_detector),
    "tsv": Reader("text", detector.write_table, detector.read_table),
}
