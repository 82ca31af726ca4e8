"""Muon (Jordan et al. 2024), the optimizer of the embedded model's matrices; see train_tiny.py."""

from __future__ import annotations

import math
from typing import Any

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Muon's authors


class Muon(torch.optim.Optimizer):  # type: ignore[misc]
    """Momentum whose update is made orthogonal; each group holds matrices [in, out] of one shape.

    Groups have ``parts``: the number of matrices that lie side by side in each parameter (3 for query, key
    and value). All matrices of a group are orthogonalised at once, in single precision, which torch's own
    Muon does one by one in bfloat16.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, dtype: torch.dtype) -> None:
        self._dtype = dtype
        super().__init__(groups, {"lr": lr, "momentum": 0.95, "weight_decay": 0.1, "parts": 1})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        """Update every matrix from its gradient."""
        for group in self.param_groups:
            weights, count = group["params"], group["parts"]
            parts = [part for weight in weights for part in weight.chunk(count, dim=1)]
            gradients = [part for weight in weights for part in weight.grad.chunk(count, dim=1)]
            gradient = torch.stack(gradients)  # [matrices, in, out]
            state = self.state[weights[0]]
            average = state.setdefault("average", torch.zeros_like(gradient))
            average.lerp_(gradient, 1 - group["momentum"])
            updates = orthogonal(gradient.lerp(average, group["momentum"]), self._dtype)
            inputs, outputs = updates.shape[1:]
            scale = group["lr"] * math.sqrt(max(1.0, outputs / inputs))
            for part, update in zip(parts, updates, strict=True):
                part.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)


def orthogonal(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Matrices [n, rows, columns] with about the same singular vectors and singular values near 1.

    The products are made in ``dtype``; the values near 1 differ by more than what bfloat16 rounds away.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.to(matrices.dtype)
    return x.mT if tall else x
