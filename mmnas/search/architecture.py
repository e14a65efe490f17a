"""Architecture parameters: alpha, one vector per block, and how they are drawn from and learned.

Paths are drawn from softmax(alpha). Gradients come from binary gates, as in ProxylessNAS (Cai et al., ICLR 2019,
section 3.2). Alphas are few, and stay on the CPU, so that drawing a path never waits for a device.
"""

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor, nn

from mmnas.genotype import Genotype
from mmnas.search.supernet import Gates

# What `prior` starts from, repeated over the blocks (SPEC: the pattern of MCAN, with RSA for its SA).
ENCODER_PATTERN = ("self_att_64", "feed_forward")
DECODER_PATTERN = ("rel_self_att_64", "guided_att_64", "feed_forward")
NOISE = 1e-3  # standard deviation of the `normal` start


class Architecture(nn.Module):
    """The alphas of every block of a search space, encoder blocks first."""

    def __init__(self, space: Genotype, start: str, seed: int) -> None:
        super().__init__()
        self.alphas = nn.ParameterList(nn.Parameter(alpha) for alpha in initial_alphas(space, start, seed))

    def probabilities(self) -> list[np.ndarray]:
        """Return softmax(alpha) of every block, float64."""
        return [alpha.detach().double().softmax(0).numpy() for alpha in self.alphas]

    def draw(self, rng: np.random.Generator) -> list[int]:
        """Draw a path: one candidate per block, from softmax(alpha)."""
        return [int(rng.choice(len(p), p=p)) for p in self.probabilities()]

    def draw_fairly(self, number: int, *seed: int) -> list[int]:
        """Return the path of step `number`: each block takes each of its n candidates once in every n steps."""
        path = []
        for block, alpha in enumerate(self.alphas):
            turn, index = divmod(number, len(alpha))
            path.append(int(np.random.default_rng((*seed, block, turn)).permutation(len(alpha))[index]))
        return path

    def draw_gates(self, rng: np.random.Generator, mode: str, device: torch.device) -> list[Gates]:
        """Draw the active candidate of every block and its inactive ones.

        `full` takes all others, `two` draws two candidates and then one of them by the softmax over the two.
        """
        rows, drawings = [], []
        for p in self.probabilities():
            drawn = np.arange(len(p)) if mode == "full" else rng.choice(len(p), min(2, len(p)), replace=False, p=p)
            active = int(rng.choice(drawn, p=p[drawn] / p[drawn].sum()))
            rows.append(torch.eye(len(p))[active])
            drawings.append((active, tuple(int(index) for index in drawn if index != active)))
        values = (
            torch.cat(rows).to(device).split([len(row) for row in rows])
        )  # one copy to the device for all blocks
        return [Gates(row.requires_grad_(), *drawing) for row, drawing in zip(values, drawings, strict=True)]

    def set_gradients(self, gates: Sequence[Gates], gate_gradients: Sequence[Tensor]) -> None:
        """Turn the loss's gradients by the gates, on the CPU, into those by the alphas."""
        for alpha, gate, gradient in zip(self.alphas, gates, gate_gradients, strict=True):
            drawn = torch.tensor(sorted((gate.active, *gate.inactive)))
            alpha.grad = torch.zeros_like(alpha)
            alpha.grad[drawn] = alpha_gradient(alpha.detach()[drawn], gradient[drawn])

    def step(self, optimizer: torch.optim.Optimizer, gates: Sequence[Gates], mode: str) -> None:
        """Let the optimizer step; in mode `two` the drawn alphas are shifted to keep their summed exponentials."""
        before = [alpha.detach().clone() for alpha in self.alphas]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if mode == "two":
            for alpha, old, gate in zip(self.alphas, before, gates, strict=True):
                drawn = torch.tensor([gate.active, *gate.inactive])
                alpha.data[drawn] += old[drawn].logsumexp(0) - alpha.data[drawn].logsumexp(0)


def initial_alphas(space: Genotype, start: str, seed: int) -> list[Tensor]:
    """Return the alphas that a search starts from, float32.

    `prior`: +1 on the block's operation of the pattern, -1 elsewhere; a block whose candidates lack it starts
    uniform. `uniform`: zeros. `normal`: small noise of `seed`.
    """
    rows = (*space.encoder, *space.decoder)
    if start == "prior":
        patterns = (ENCODER_PATTERN, len(space.encoder)), (DECODER_PATTERN, len(space.decoder))
        names = [name for pattern, blocks in patterns for name in islice(cycle(pattern), blocks)]
        signs = ([1.0 if each == name else -1.0 for each in row] for row, name in zip(rows, names, strict=True))
        return [torch.tensor(row) for row in signs]
    noise, generator = NOISE if start == "normal" else 0.0, torch.Generator().manual_seed(seed)
    return [noise * torch.randn(len(row), generator=generator) for row in rows]


def alpha_gradient(alpha: Tensor, gate_gradient: Tensor) -> Tensor:
    """Return d alpha_i = sum_j g_j p_j ([i = j] - p_i), with g the gates' gradients and p = softmax(alpha)."""
    p = alpha.softmax(0)
    return p * (gate_gradient - (gate_gradient * p).sum())
