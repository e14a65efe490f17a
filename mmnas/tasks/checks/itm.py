"""The check of Flickr30K and COCO captions: captions and ids of every split, region features."""

from pathlib import Path

from mmnas.config import Config
from mmnas.data import scan_precomp
from mmnas.data.scan_precomp import CAPTIONS_PER_IMAGE, Captions
from mmnas.data.sources import matching_features
from mmnas.tasks.checks.features import check_images, read_images
from mmnas.tasks.checks.report import Report
from mmnas.text.tokenizer import tokenize
from mmnas.text.vocabulary import Vocabulary

# Images of the published test splits, which name the protocols; regions of an image, fewest and most.
IMAGES = {"flickr": {"test": 1000}, "coco": {"testall": 5000}}
REGIONS = (36, 36)
NEEDED = ("train", "dev")


def check_itm(config: Config, report: Report, full: bool) -> None:
    """Check the files of one data set; the test splits may be missing."""
    report.title(f"files under {config.paths.data}")
    found = _read(config, report)
    report.title("captions")
    for split, captions in found.items():
        known = IMAGES[config.data.dataset].get(split)
        report.count(f"images of {split}, {CAPTIONS_PER_IMAGE} captions each", len(captions.image_ids), known)
    texts = (text for captions in found.values() for text in captions.texts)
    report.words(list(Vocabulary.from_token_lists(map(tokenize, texts)).words), config)
    report.title("region features")
    with report.going_on():
        source = matching_features(
            config.paths.data, config.paths.features, config.data.dataset, config.model.feature_size
        )
        images = {split: captions.image_ids.tolist() for split, captions in found.items()}
        there = check_images(report, source, images, NEEDED)
        for _ in read_images(report, source, there, full, REGIONS):
            pass


def _read(config: Config, report: Report) -> dict[str, Captions]:
    """Show the files of every split; return what the whole ones hold."""
    root, dataset = config.paths.data, config.data.dataset
    if dataset == "flickr":
        report.file(Path(root) / "itm" / "dataset_flickr30k.json")
    found = {}
    for split in scan_precomp.splits_of(dataset):
        path = scan_precomp.captions_path(root, dataset, split)
        there = [report.file(path), report.file(path.with_name(f"{split}_ids.txt"))]
        with report.going_on(needed=any(there) or split in NEEDED):
            found[split] = scan_precomp.read_split(root, dataset, split)
    return found
