"""Modules that ask a GPU for fewer kernels than the plain ones, and their installation in a built network.

At the published batch size a GPU mostly waits for the next kernel, so that a training step takes as long as it has
kernels. These modules compute the same with fewer: weights are cast and joined for all layers at once, relation
biases computed for all attentions at once, mask biases once per mask. Figures: docs/performance.md.
Letters: B batch, Q queries, K keys, N regions, I inner width of an attention, h heads, w head width.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from mmnas.models.layers import MLP, AttentionPooling, LayerNorm, MultiHeadAttention, mask_to_bias
from mmnas.models.network import MMNasNet
from mmnas.models.precision import in_float32
from mmnas.models.relation import Relation, join, log_bias
from mmnas.models.stems import RegionStem

# The fused attention copies a bias unless its rows start at multiples of so many numbers.
ALIGNMENT = 16
_mask_biases = WeakTensorKeyDictionary()


def use_gpu_kernels(network: nn.Module) -> None:
    """Make a built network fast on a GPU, in place, as `cpu.use_cpu_kernels` does for a CPU."""
    for module in network.modules():
        module.__class__ = _KERNELS.get(type(module), type(module))


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the type that products on the device of x are computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def aligned(bias: Tensor) -> Tensor:
    """Return bias (..., K) in the compute type, with rows that start at multiples of `ALIGNMENT`."""
    padded = F.pad(bias.to(compute_dtype(bias)), (0, -bias.shape[-1] % ALIGNMENT))
    return padded[..., : bias.shape[-1]]


def mask_bias(mask: Tensor) -> Tensor:
    """Return what mask (B, K) adds to the logits of an attention, (B, 1, 1, K); computed once for each mask."""
    bias = _mask_biases.get(mask)
    known = bias is not None and bias.dtype == compute_dtype(mask)
    if not known or bias.is_inference() != torch.is_inference_mode_enabled():  # training takes no inference tensors
        bias = _mask_biases[mask] = aligned(mask_to_bias(mask)[:, None, None])
    return bias


class GPULayerNorm(LayerNorm):
    """`LayerNorm` that takes the product of its gain and the ratio of the two deviations from its network."""

    scaled: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis."""
        if self.scaled is None:
            return super().forward(x)
        return F.layer_norm(x, self.scaled.shape, self.scaled, self.shift, eps=1e-12)


class GPUAttention(MultiHeadAttention):
    """`MultiHeadAttention` with one product for queries, keys and values, by weights that its network joins."""

    joined: Tensor | None = None

    def project(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, h, Q, w) of x, keys and values (B, h, K, w) of source."""
        if self.joined is None:
            return super().project(x, source)
        inner = self.merge.in_features
        if x is source:
            query, key, value = F.linear(x, self.joined).split(inner, dim=-1)  # (B, K, 3 I) -> 3 of (B, K, I)
        else:
            first, rest = self.joined.split((inner, 2 * inner))
            query = F.linear(x, first)
            key, value = F.linear(source, rest).split(inner, dim=-1)  # (B, K, 2 I) -> 2 of (B, K, I)
        return self.split(query), self.split(key), self.split(value)

    def bias(self, mask: Tensor | None, relation: Relation | None) -> Tensor | None:
        """Return what mask (B, K) and relation add to the logits, or None."""
        if relation is not None and relation.masked and self.relation is not None:
            return relation.bias(self.relation)
        if mask is None or (relation is not None and self.relation is not None):
            return super().bias(mask, relation)
        return mask_bias(mask)


class GPUNetwork(MMNasNet):
    """`MMNasNet` that casts and joins the weights of all layers at once in each training step."""

    def forward(self, batch: Mapping[str, Tensor]) -> Any:
        """Run a batch as the plain network does."""
        if not torch.is_grad_enabled():
            return super().forward(batch)  # autocast keeps what it has cast from batch to batch
        lent = self._lend()
        try:
            for module, name, tensor in lent:
                module.__dict__[name] = tensor  # is found before the parameter, which stays in place
            return super().forward(batch)
        finally:
            for module, name, _ in lent:
                module.__dict__.pop(name, None)

    def _lend(self) -> list[tuple[nn.Module, str, Tensor]]:
        """Return modules, names of attributes, and the tensors that they have for one forward pass."""
        weights, norms = self._borrowers
        joined = torch.cat([part.flatten() for _, _, parts in weights for part in parts])
        pieces = joined.to(compute_dtype(joined)).split([sum(map(Tensor.numel, parts)) for _, _, parts in weights])
        gains = (
            (torch.cat([norm.gain for norm in norms]) * norms[0].unbiased).split(len(norms[0].gain))
            if norms
            else ()
        )
        lent: list[tuple[nn.Module, str, Tensor]] = [
            (module, name, piece.view(-1, *parts[0].shape[1:]))
            for (module, name, parts), piece in zip(weights, pieces, strict=True)
        ]
        return lent + [(norm, "scaled", gain) for norm, gain in zip(norms, gains, strict=True)]

    @functools.cached_property
    def _borrowers(self) -> tuple[list[tuple[nn.Module, str, list[Tensor]]], list[GPULayerNorm]]:
        """Modules, names of attributes and the parameters joined in them; the norms, all of one width."""
        weights: list[tuple[nn.Module, str, list[Tensor]]] = []
        for module in self.modules():
            linears = [each for each in module.children() if type(each) is nn.Linear]
            if isinstance(module, GPUAttention):
                weights.append((module, "joined", [module.query.weight, module.key.weight, module.value.weight]))
                linears = [module.merge]
            if isinstance(module, _LENT_TO):
                weights += [(each, name, [part]) for each in linears for name, part in each.named_parameters()]
        norms = [module for module in self.backbone.modules() if isinstance(module, GPULayerNorm)]
        return weights, [norm for norm in norms if norm.gain.shape == norms[0].gain.shape]

    def relate(self, boxes: Tensor, mask: Tensor) -> Relation | None:
        """Return the relation of boxes (B, N, 4) under mask (B, N): the biases of all readers, mask included."""
        if self.relation is None:
            return None
        biases = aligned(self._read(boxes, mask)).split([each.out_features for each in self.readers], dim=1)
        return Relation(dict(zip(self.readers, biases, strict=True)).__getitem__, masked=True)

    @in_float32
    def _read(self, boxes: Tensor, mask: Tensor) -> Tensor:
        """Return what relation and mask add to logits, (B, heads of all readers, N, N)."""
        assert self.relation is not None
        read = F.linear(self.relation(boxes, mask), *join(self.readers))
        return log_bias(read) + mask_to_bias(mask)[:, None, None]


# Modules whose linears take their weights from the network; those of others compute in float32.
_LENT_TO = (GPUAttention, MLP, AttentionPooling, RegionStem)
_KERNELS = {kernel.__bases__[0]: kernel for kernel in (GPULayerNorm, GPUAttention, GPUNetwork)}
