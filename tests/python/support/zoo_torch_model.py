"""GPT-2 in PyTorch as written in 2019; its export gives the graph of the ONNX Model Zoo's files."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from gpt2fast.config import ModelConfig


class Conv1D(nn.Module):
    """``y = x W + b`` with the weight as ``[in, out]``."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.size()[:-1], self.weight.size(1))


class Attention(nn.Module):
    """Attention with its mask in a buffer, and division of every score."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        mask = torch.tril(torch.ones(config.n_positions, config.n_positions))
        self.bias: torch.Tensor
        self.register_buffer("bias", mask.view(1, 1, *mask.shape))
        self.n_head = config.n_head
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def split_heads(self, x: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
        return x.view(*x.size()[:-1], self.n_head, x.size(-1) // self.n_head).permute(*order)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value = self.c_attn(x).split(x.size(-1), dim=2)
        query, value = self.split_heads(query, (0, 2, 1, 3)), self.split_heads(value, (0, 2, 1, 3))
        key = self.split_heads(key, (0, 2, 3, 1))
        scores = torch.matmul(query, key) / math.sqrt(value.size(-1))
        columns = scores.size(-1)
        mask = self.bias[:, :, columns - scores.size(-2) : columns, :columns]
        weights = nn.Softmax(dim=-1)(scores * mask - 1e4 * (1 - mask))
        mixed = torch.matmul(weights, value).permute(0, 2, 1, 3).contiguous()
        joined = mixed.view(*mixed.size()[:-2], mixed.size(-2) * mixed.size(-1))
        return self.c_proj(joined), torch.stack((key.transpose(-2, -1), value))


class MLP(nn.Module):
    """Two layers with the tanh approximation of GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.n_inner, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.c_fc(x)
        slope = 1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * torch.pow(y, 3)))
        result: torch.Tensor = self.c_proj(0.5 * y * slope)
        return result


class Block(nn.Module):
    """One layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mixed, present = self.attn(self.ln_1(x))
        x = x + mixed
        return x + self.mlp(self.ln_2(x)), present


class ZooModel(nn.Module):
    """``input1`` int64 [batch, choices, tokens] -> hidden states or scores, then one past per layer."""

    def __init__(self, config: ModelConfig, *, with_head: bool) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.with_head = with_head
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = input_ids.view(-1, input_ids.size(-1))
        positions = torch.arange(0, flat.size(-1), dtype=torch.long).unsqueeze(0).expand_as(flat)
        x = self.wte(flat) + self.wpe(positions)
        presents = []
        for block in self.h:
            x, present = block(x)
            presents.append(present)
        x = self.ln_f(x)
        x = x.view(*input_ids.size(), x.size(-1))
        return (self.lm_head(x) if self.with_head else x, *presents)


def zoo_model(config: ModelConfig, tensors: dict[str, Any], *, with_head: bool) -> ZooModel:
    """The model with weights by canonical name."""
    model = ZooModel(config, with_head=with_head)
    state = {name: torch.from_numpy(values) for name, values in tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("attn.bias") or name == "lm_head.weight" for name in missing)
    return model.eval()
