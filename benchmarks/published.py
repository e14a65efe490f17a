"""The published way of computing these networks, written plainly: what the benchmarks compare with.

Every image is padded to a fixed number of regions and every text to a fixed length; relation matrices (N, N, 4) are
made per sample in NumPy before batching; queries, keys and values have a linear each; the logits, their mask, the
relation term and the softmax are separate tensors; the layer norm is the paper's formula in eager mode. Parameters
bear the names of `mmnas.models`, so that both hold the same weights.

Letters: B batch, N regions padded, K regions of an image, T tokens padded, H hidden size, h heads, w head width.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmnas.genotype import Genotype, Row

Sample = Mapping[str, np.ndarray]
HIDDEN, HEAD, RELATION, WORD, FEATURE, POOLED, DROPOUT = 512, 64, 64, 300, 2048, 1024, 0.1  # size small


def relation_matrix(boxes: np.ndarray) -> np.ndarray:
    """Return the relation features (K, K, 4) of boxes (K, 4)."""
    x1, y1, x2, y2 = boxes.T
    width, height, cx, cy = x2 - x1 + 1, y2 - y1 + 1, (x1 + x2) / 2, (y1 + y2) / 2
    across = np.log(np.maximum(np.abs(cx[:, None] - cx) / width[:, None], 1e-3))
    down = np.log(np.maximum(np.abs(cy[:, None] - cy) / height[:, None], 1e-3))
    return np.stack([across, down, np.log(width[:, None] / width), np.log(height[:, None] / height)], axis=-1)


def published_batch(samples: Sequence[Sample], tokens: int, regions: int = 100) -> dict[str, Tensor]:
    """Pad every sample to so many tokens and regions, make its relation matrix, stack.

    Names beginning with `region_` are padded over regions too; what else there is, is stacked as it is.
    """
    rows = []
    for sample in samples:
        lengths = {"features": regions, "boxes": regions, "tokens": tokens}
        row = {name: _padded(array, lengths.get(name, regions if name.startswith("region_") else None))
               for name, array in sample.items()}  # fmt: skip
        count = len(sample["boxes"])
        row["relation"] = np.zeros((regions, regions, 4), np.float32)
        row["relation"][:count, :count] = relation_matrix(sample["boxes"])
        row["region_mask"] = np.arange(regions) < count
        rows.append(row)
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def _padded(array: np.ndarray, length: int | None) -> np.ndarray:
    if length is None:
        return array
    return np.pad(array, [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1))


class PaperNorm(nn.Module):
    """The paper's layer norm as its formula stands there."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))
        self.shift = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return self.gain * (x - mean) / (std + 1e-6) + self.shift


class PlainAttention(nn.Module):
    """Multi-head attention with every step a tensor of its own."""

    def __init__(self, relational: bool) -> None:
        super().__init__()
        self.value, self.key, self.query, self.merge = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))
        self.relation = nn.Linear(RELATION, HIDDEN // HEAD) if relational else None
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, source: Tensor, padding: Tensor, relation: Tensor | None) -> Tensor:
        """Let x (B, Q, H) attend to source (B, K, H), whose padding (B, 1, 1, K) is true."""
        batch = len(x)
        split = [
            linear(each).view(batch, -1, HIDDEN // HEAD, HEAD).transpose(1, 2)  # (B, h, K, w)
            for linear, each in ((self.value, source), (self.key, source), (self.query, x))
        ]
        value, key, query = split
        logits = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(HEAD)  # (B, h, Q, K)
        if self.relation is not None:
            term = F.relu(self.relation(relation)).permute(0, 3, 1, 2)
            logits = torch.log(torch.clamp(term, min=1e-6)) + logits
        shares = self.dropout(F.softmax(logits.masked_fill(padding, -1e9), dim=-1))
        attended = torch.matmul(shares, value).transpose(1, 2).contiguous().view(batch, -1, HIDDEN)
        return self.merge(attended)


class PlainMLP(nn.Module):
    """Linear, ReLU, dropout, Linear."""

    def __init__(self, inner: int, out: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(HIDDEN, inner), nn.Linear(inner, out)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis."""
        return self.output(self.dropout(F.relu(self.hidden(x))))


class PlainBlock(nn.Module):
    """One operation of the four that the published genotypes hold: LayerNorm(x + Dropout(f(x)))."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.guided = name == "guided_att_64"
        if name == "feed_forward":
            self.mlp = PlainMLP(4 * HIDDEN, HIDDEN)
        else:
            self.attention = PlainAttention(name == "rel_self_att_64")
        self.dropout, self.norm = nn.Dropout(DROPOUT), PaperNorm(HIDDEN)

    def forward(self, x, padding, memory=None, memory_padding=None, relation=None) -> Tensor:
        """Return (B, X, H)."""
        if hasattr(self, "mlp"):
            y = self.mlp(x)
        elif self.guided:
            y = self.attention(x, memory, memory_padding, None)
        else:
            y = self.attention(x, x, padding, relation)
        return self.norm(x + self.dropout(y))


class PlainPooling(nn.Module):
    """AttFlat with one glimpse."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.merge = PlainMLP(HIDDEN, 1), nn.Linear(HIDDEN, POOLED)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """Pool x (B, K, H) under padding (B, 1, 1, K) to (B, P)."""
        logits = self.mlp(x).masked_fill(padding[:, 0, 0, :, None], -1e9)
        return self.merge(torch.sum(F.softmax(logits, dim=1) * x, dim=1))


class PlainFusionHead(nn.Module):
    """The head of VQA and matching."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.language_pooling, self.region_pooling = PlainPooling(), PlainPooling()
        self.norm, self.classifier = PaperNorm(POOLED), nn.Linear(POOLED, outputs)

    def forward(self, language: Tensor, token_padding: Tensor, regions: Tensor, region_padding: Tensor) -> Tensor:
        """Return logits (B, A)."""
        pooled = self.language_pooling(language, token_padding) + self.region_pooling(regions, region_padding)
        return self.classifier(self.norm(pooled))


class PlainGroundingHead(nn.Module):
    """The head of grounding."""

    def __init__(self) -> None:
        super().__init__()
        self.language_pooling, self.region_linear = PlainPooling(), nn.Linear(HIDDEN, POOLED)
        self.norm, self.score, self.box = PaperNorm(POOLED), nn.Linear(POOLED, 1), nn.Linear(POOLED, 4)

    def forward(self, language: Tensor, token_padding: Tensor, regions: Tensor, region_padding: Tensor):
        """Return log-softmax scores (B, N) and box offsets (B, N, 4)."""
        fused = self.norm(self.language_pooling(language, token_padding)[:, None] + self.region_linear(regions))
        return F.log_softmax(self.score(fused).squeeze(-1), dim=-1), self.box(fused)


class PublishedNetwork(nn.Module):
    """The whole network of a genotype whose rows hold one operation each, at size small."""

    def __init__(self, genotype: Genotype, words: int, head: nn.Module) -> None:
        super().__init__()
        self.token_stem = nn.ModuleDict(
            {"embedding": nn.Embedding(words, WORD), "lstm": nn.LSTM(WORD, HIDDEN, batch_first=True)}
        )
        self.region_stem = nn.ModuleDict({"linear": nn.Linear(FEATURE, HIDDEN)})
        self.relation = nn.ModuleDict({"linear": nn.Linear(4, RELATION)})
        streams = {"encoder": genotype.encoder, "decoder": genotype.decoder}
        self.backbone = nn.ModuleDict({name: _blocks(rows) for name, rows in streams.items()})
        self.head = head

    def forward(self, batch: Mapping[str, Tensor]):
        """Run a batch of `published_batch` and return the head's output."""
        tokens, features = batch["tokens"], batch["features"]
        token_padding = (tokens == 0)[:, None, None]  # (B, 1, 1, T)
        region_padding = (features.abs().sum(-1) == 0)[:, None, None]  # (B, 1, 1, N)
        memory, _ = self.token_stem["lstm"](self.token_stem["embedding"](tokens))  # (B, T, H)
        regions = self.region_stem["linear"](features)  # (B, N, H)
        relation = F.relu(self.relation["linear"](batch["relation"]))  # (B, N, N, R)
        for row in self.backbone["encoder"]:
            memory = row[0](memory, token_padding)
        for row in self.backbone["decoder"]:
            regions = row[0](regions, region_padding, memory, token_padding, relation)
        return self.head(memory, token_padding, regions, region_padding)


def _blocks(rows: Sequence[Row]) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleList([PlainBlock(name) for name in row]) for row in rows)
