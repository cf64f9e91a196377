"""Sizes of a training step, and whether a CPU should be asked for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from .. import scripted

GROUP = 8  # completions
# Floating point operations of a step that a CPU is asked for: minutes of a core.
CPU_LIMIT = 1e13


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2 model of random weights, and of a batch: `groups` of 8 completions.

    Attributes:
        length: tokens of each completion.
        heads: None: one for each 64 of the hidden size.
        kv_heads: heads of keys and values; None: as many as `heads`.
        mlp: inner size of the MLP; None: twice the hidden size.
        vocabulary: tokens of the model; completions are drawn from the first 1000.
        tied: whether the embedding is the output layer, too.
        dtype: of weights, gradients and the optimiser's state.
        micro_batch: completions of one forward and backward pass; None: all of a step.
        checkpointing: whether activations are computed again in the backward pass.
        rounds: pairs of steps that are timed unless another number is asked for.
    """

    hidden_size: int = 256
    layers: int = 4
    groups: int = 2
    length: int = 256
    heads: int | None = None
    kv_heads: int | None = None
    mlp: int | None = None
    vocabulary: int = scripted.VOCABULARY
    tied: bool = False
    dtype: torch.dtype = torch.float32
    micro_batch: int | None = None
    checkpointing: bool = False
    rounds: int = 150

    def model_config(self) -> Qwen2Config:
        """Raises ValueError for sizes that no model can have."""
        return scripted.qwen2(
            hidden_size=self.hidden_size,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            mlp=self.mlp,
            vocabulary=self.vocabulary,
            tied=self.tied,
        )

    def check(self) -> None:
        """Raises ValueError for sizes that no model, or no batch, can have."""
        self.model_config()
        if self.length < scripted.shortest(GROUP):
            raise ValueError(
                f"length {self.length}: expected {scripted.shortest(GROUP)} tokens or more, for "
                f"{GROUP} completions that leave each other one after the other."
            )
        size = self.micro_batch
        if size is not None and (size < 1 or GROUP * self.groups % size):
            raise ValueError(
                f"micro_batch {size}: expected a divisor of {GROUP * self.groups}, the completions "
                "of a step."
            )

    def weights(self) -> int:
        """Of the model, counted without making them."""
        with torch.device("meta"):
            model = Qwen2ForCausalLM(self.model_config())
        return sum(parameter.numel() for parameter in model.parameters())

    def tokens(self) -> int:
        """Of the completions of a step."""
        return self.groups * GROUP * self.length

    def operations(self) -> float:
        """Of one forward and one backward pass over a step: 6 for each weight and token."""
        return 6.0 * self.weights() * self.tokens()

    def changed(self, **sizes: int | None) -> Shape:
        """With other sizes, where they are not None."""
        given = {name: size for name, size in sizes.items() if size is not None}
        return dataclasses.replace(self, **given)


# Three trainers, each with a reference model, hold 40 GB of the second; a pass over four of its
# completions needs 5 to 15 GB more, gradients 3 GB.
SHAPES = {
    "small": Shape(),
    "qwen2.5-1.5b": Shape(
        hidden_size=1536,
        layers=28,
        groups=8,
        length=2048,
        heads=12,
        kv_heads=2,
        mlp=8960,
        vocabulary=151936,
        tied=True,
        dtype=torch.bfloat16,
        micro_batch=4,
        checkpointing=True,
        rounds=10,
    ),
}


def cpu_refusal(shape: Shape) -> str | None:
    """Why a CPU should not be asked for steps of this shape, and what to do; None if it may."""
    operations = shape.operations()
    if operations <= CPU_LIMIT:
        return None
    return (
        f"a step of {shape.weights() / 1e9:.2f} billion weights over {shape.tokens()} tokens takes "
        f"{operations:.1e} operations, and torch sees no CUDA device. Run it where "
        "torch.cuda.is_available() is true, or choose smaller sizes (for example --hidden_size 96 "
        "--layers 2 --groups 1 --length 64), or add --allow_cpu and wait for hours."
    )
