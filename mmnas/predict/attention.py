"""What a network attends to, kept from the forward pass that answers. Put around the network from outside.

Letters: B batch, K positions, h heads, Q queries.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn

from mmnas.models.layers import AttentionPooling, MultiHeadAttention, mask_to_bias
from mmnas.models.network import MMNasNet

POOLINGS = {"language_pooling": "token_mask", "region_pooling": "region_mask"}
"""The poolings of heads, and the mask of what each pools."""


class KeepingAttention(MultiHeadAttention):
    """`MultiHeadAttention`, written out, that keeps its weights (B, h, Q, K) as `kept`."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Return softmax(query @ key.T / sqrt(w) + bias) @ value, (B, h, Q, w)."""
        logits = query @ key.transpose(2, 3) * self.head_width**-0.5
        self.kept = (logits if bias is None else logits + bias).softmax(dim=-1)
        return self.kept @ value


def attentions(network: MMNasNet) -> dict[str, MultiHeadAttention]:
    """Return the attentions by name: `encoder.3` of block 3, from 0; `encoder.3.1` of a second operation in it."""
    found = network.backbone.named_modules()
    return {
        name.removesuffix(".attention").removesuffix(".0"): module
        for name, module in found
        if isinstance(module, MultiHeadAttention)
    }


@contextmanager
def keeping_attention(network: MMNasNet, maps: bool) -> Iterator[dict[str, Tensor]]:
    """Collect the attention of the forward pass inside, by name; with `maps`, that of all blocks, too.

    Of a pooling, the logits (B, K, glimpses), see `pooling_weights`; of a block, the weights (B, h, Q, K).
    """
    kept: dict[str, Tensor] = {}
    blocks = attentions(network) if maps else {}
    before = {name: type(module) for name, module in blocks.items()}

    def keep(name: str, _: nn.Module, __: tuple[Tensor, ...], logits: Tensor) -> None:
        kept[name] = logits

    with ExitStack() as stack:
        for name, pooling in network.head.named_children():
            if isinstance(pooling, AttentionPooling):
                stack.enter_context(pooling.mlp.register_forward_hook(partial(keep, name)))
        for module in blocks.values():
            module.__class__ = KeepingAttention  # also in place of one that folds
        try:
            yield kept
            kept |= {name: module.__dict__.pop("kept") for name, module in blocks.items()}
        finally:
            for name, module in blocks.items():
                module.__class__ = before[name]


def pooling_weights(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the weights (B, K), which sum to one over the valid positions, as the mean of the glimpses."""
    return (logits.float() + mask_to_bias(mask)[:, :, None]).softmax(dim=1).mean(dim=2)
