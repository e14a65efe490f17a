"""Valid files of region features, word vectors and weights, and everything that is done with their content."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import srsly
import torch
from msgspec.structs import asdict
from safetensors.torch import save_file
from spacy.strings import get_string_id
from torch import Tensor, nn

from mmnas.config import load_config
from mmnas.data.features import read_npz
from mmnas.data.store import FEATURES, HEADER, INDEX, FeatureStore
from mmnas.data.store_writer import pack
from mmnas.engine.checkpoint import (
    FORMAT,
    Checkpoint,
    best_epoch,
    load_checkpoint,
    save_checkpoint,
    settings_of,
    versions,
)
from mmnas.engine.exported import SETTINGS, WEIGHTS, write_export
from mmnas.models.published import our_name
from mmnas.tasks import task_named
from mmnas.text.vector_sources import GloveText, SpacyVectors
from mmnas.text.vocabulary import Vocabulary
from tests.conftest import GENOTYPE
from tests.hostile.reading_texts import json_file
from tests.stand_in import load_weights

WIDTH = 16  # of the region features

# Region features


def _regions(**features: np.ndarray) -> dict[str, np.ndarray]:
    boxes = np.array([[0, 0, 99, 79], [5, 6, 30, 40], [1, 1, 2, 2]], np.float32)
    return {**features, "bbox": boxes, "image_h": np.array(80), "image_w": np.array(100)}


def write_npz(folder: Path) -> Path:
    path = folder / "COCO_train2014_000000000009.jpg.npz"
    np.savez(path, **_regions(x=np.arange(3 * WIDTH, dtype=np.float32).reshape(WIDTH, 3)))
    return path


def read_npz_file(folder: Path) -> None:
    regions = read_npz(next(folder.glob("*.npz")), WIDTH)
    assert regions.features.shape == (len(regions.boxes), WIDTH) and np.isfinite(regions.features).all()
    assert torch.from_numpy(np.ascontiguousarray(regions.features)).isfinite().all()


def write_mask_rcnn(folder: Path) -> Path:
    path = folder / "9.npz"
    np.savez(path, **_regions(fc7=np.ones((3, 10), np.float32), pool5=np.ones((3, WIDTH - 10), np.float32)))
    return path


def read_mask_rcnn(folder: Path) -> None:
    assert read_npz(folder / "9.npz", WIDTH, "fc7+pool5").features.shape[1] == WIDTH


def write_store(folder: Path) -> tuple[Path, Path, Path]:
    """Write a feature store; return its header, its index and its features."""
    source = folder / "npz"
    source.mkdir()
    write_npz(source)
    store = folder / "store"
    pack([source], store, feature_size=WIDTH)
    return store / HEADER, store / INDEX, store / FEATURES


def read_store(folder: Path) -> None:
    store = FeatureStore(folder / "store")
    image = store[store.image_ids[0]]
    assert store.region_counts(store.image_ids[:1])[0] == len(np.asarray(image.features)) == len(image.boxes)


# Word vectors

TOKENS = ("red", "ball", "a", "dog")


def _vectors() -> np.ndarray:
    return np.arange(len(TOKENS) * 300, dtype=np.float32).reshape(-1, 300)


def write_glove(folder: Path) -> Path:
    rows = zip(TOKENS, _vectors(), strict=True)
    text = "".join(f"{token} {' '.join(f'{number:g}' for number in row)}\n" for token, row in rows)
    (folder / "glove.txt").write_text(text)
    return folder / "glove.txt"


def write_glove_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "glove.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(write_glove(folder), "glove.840B.300d.txt")
    return folder / "glove.zip"


def write_spacy(folder: Path) -> tuple[Path, Path, Path]:
    """Write a spaCy directory; return its table, its index and its settings."""
    vocab = folder / "vocab"
    vocab.mkdir()
    with open(vocab / "vectors", "wb") as file:
        np.save(file, _vectors(), allow_pickle=False)
    srsly.write_msgpack(vocab / "key2row", {get_string_id(token): row for row, token in enumerate(TOKENS)})
    return vocab / "vectors", vocab / "key2row", json_file(vocab / "vectors.cfg", {"mode": "default"})


def read_glove(folder: Path) -> None:
    _check(GloveText(folder / "glove.txt").lookup({*TOKENS}))


def read_glove_zip(folder: Path) -> None:
    _check(GloveText(folder / "glove.zip").lookup({*TOKENS}))


def read_spacy(folder: Path) -> None:
    _check(SpacyVectors(folder).lookup({*TOKENS}))


def _check(found: dict[str, np.ndarray]) -> None:
    assert all(vector.shape == (300,) and vector.dtype == np.float32 for vector in found.values())


# Checkpoints

PUBLISHED = (
    "embedding.weight",
    "lstm.bias_hh_l0",
    "backnone.cells_enc.0.dag.0.0.ln.a_2",
    "proj.weight",
    "proj.bias",
)


def network(weights: dict[str, Tensor]) -> nn.Module:
    """Return a module whose parameters have the names and shapes of `weights`."""
    root = nn.Module()
    for name, weight in weights.items():
        module, *parts = root, *name.split(".")
        for part in parts[:-1]:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(parts[-1], nn.Parameter(weight.clone()))
    return root


OWN_WEIGHTS = {
    "stem.weight": torch.ones(5, 3),
    "stem.bias": torch.zeros(5),
    "head.classifier.weight": torch.ones(2, 5),
}
PUBLISHED_WEIGHTS = {name: torch.ones(2, 3) for name in PUBLISHED}
NETWORKS = {
    "own": network(OWN_WEIGHTS),
    "published": network({our_name(name): weight for name, weight in PUBLISHED_WEIGHTS.items()}),
}


def _checkpoint() -> Checkpoint:
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(3))])
    metrics = [None, {"overall": 51.5}]
    return Checkpoint(
        config=load_config("vqa", "tiny", split="train", version="base").to_dict(),
        genotype=GENOTYPE,
        vocabularies={"tokens": ["PAD", "UNK", "CLS", "red"], "answers": ["yes", "no"]},
        model=OWN_WEIGHTS,
        optimizer=optimizer.state_dict(),
        epoch=2,
        history=[{"epoch": n + 1, "loss": 0.5, "metrics": figures} for n, figures in enumerate(metrics)],
        versions=versions(),
    )


def write_checkpoint(folder: Path) -> Path:
    save_checkpoint(folder / "epoch2.pkl", _checkpoint())
    return folder / "epoch2.pkl"


def write_exported(folder: Path) -> tuple[Path, Path]:
    """Write an exported model; return its settings and its weights."""
    (folder / "model").mkdir()
    write_export(folder / "model", {"format": FORMAT, **asdict(_checkpoint())})
    return folder / "model" / SETTINGS, folder / "model" / WEIGHTS


def read_exported(folder: Path) -> None:
    _use(folder / "model")


def read_exported_settings(folder: Path) -> None:
    """Read settings that were altered by someone who has altered their hash, too."""
    digest = hashlib.sha256((folder / "model" / SETTINGS).read_bytes()).hexdigest()
    save_file(OWN_WEIGHTS, folder / "model" / WEIGHTS, {"config_sha256": digest})
    read_exported(folder)


def read_checkpoint(folder: Path) -> None:
    _use(folder / "epoch2.pkl")


def _use(path: Path) -> None:
    """Read a checkpoint of any form and do all that is done with its content."""
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint, Checkpoint):
        return
    config, _ = settings_of(path, checkpoint)
    task = task_named(config.task)(config)
    task.use_vocabularies(checkpoint.vocabularies)
    Vocabulary(checkpoint.vocabularies["tokens"])
    best_epoch(checkpoint.history, "overall")
    load_weights(NETWORKS["own"], checkpoint, path)
    json.dumps([config.to_dict(), checkpoint.vocabularies, checkpoint.versions], ensure_ascii=False).encode()


def write_old_published(folder: Path) -> Path:
    """Write the file as torch before 1.6 did, which is no archive."""
    return write_published(folder, archive=False)


def write_published(folder: Path, archive: bool = True) -> Path:
    weights = {f"module.{name}": weight for name, weight in PUBLISHED_WEIGHTS.items()}
    values = {"state_dict": weights, "net_optim": {"state": {}, "param_groups": []}, "epoch": 13}
    torch.save(values, folder / "released.pkl", _use_new_zipfile_serialization=archive)
    return folder / "released.pkl"


def read_published(folder: Path) -> None:
    path = folder / "released.pkl"
    load_weights(NETWORKS["published"], load_checkpoint(path), path)
