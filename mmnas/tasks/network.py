"""From a configuration to a network: the one place where a `Config` meets the modules' keyword arguments."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from mmnas.config import Config
from mmnas.genotype import Genotype
from mmnas.models.network import MMNasNet, build_network
from mmnas.models.operations import Sizes
from mmnas.text.word_vectors import word_vectors


def head_sizes(config: Config) -> dict[str, Any]:
    """Return the keyword arguments that the heads of all tasks share."""
    model = config.model
    return {
        "hidden": model.hidden_size,
        "pooling_size": model.pooling_size,
        "glimpses": model.glimpses,
        "pooled": model.pooled_size,
        "dropout": model.dropout,
    }


def network_of(
    config: Config, genotype: Genotype, head: nn.Module, words: Sequence[str], pretrained_words: bool
) -> MMNasNet:
    """Build the network of `config` and `genotype` around `head`, with an embedding for `words`.

    With `pretrained_words` the embedding starts from word vectors; without, its weights are expected
    from a checkpoint.
    """
    model, paths = config.model, config.paths
    vectors = None
    if pretrained_words:
        vectors = word_vectors(words, paths.word_vectors, config.files.cache, search=paths.data)
    return build_network(
        genotype=genotype,
        head=head,
        sizes=Sizes(model.hidden_size, model.relation_size, model.head_scale, model.dropout),
        vocabulary_size=len(words),
        word_size=model.word_size,
        feature_size=model.feature_size,
        box_size=model.box_size,
        word_vectors=vectors,
    )
