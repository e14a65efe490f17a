"""A look at the training data before the first step: what a long run would only meet in its middle."""

import logging
from typing import Any

import numpy as np

from mmnas.data.batching import collate

log = logging.getLogger(__name__)

SAMPLES = 16


def look_at(dataset: Any) -> None:
    """Read some samples of a map-style data set, from the first to the last, as training does, and log their sizes.

    Raises `DataError` naming the first damaged file. `check-data --full` reads everything.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, SAMPLES).astype(int)).tolist()
    batch = getattr(dataset, "collate", collate)([dataset[index] for index in indices])
    regions, tokens = (batch[mask].sum(dim=1) for mask in ("region_mask", "token_mask"))
    log.info(
        "%d of %d training samples read: %d to %d regions, %d to %d tokens",
        len(indices), len(dataset), regions.min(), regions.max(), tokens.min(), tokens.max(),
    )  # fmt: skip
