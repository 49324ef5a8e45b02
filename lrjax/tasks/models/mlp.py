"""A multilayer perceptron; without hidden layers a linear model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lrjax.tasks.models.products import product

Params = Sequence[Mapping[str, jax.Array]]


def init(
    key: jax.Array, sizes: Sequence[int], dtype: DTypeLike = jnp.float32
) -> list[dict[str, jax.Array]]:
    """Draw weights and biases uniformly from +-1/sqrt(inputs), as `torch.nn.Linear`.

    Args:
      key: random key.
      sizes: number of inputs, units of each hidden layer, number of outputs.
      dtype: type of the parameters.
    """
    layers = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight, bias = jax.random.split(jax.random.fold_in(key, number))
        bound = inputs**-0.5
        layers.append(
            {
                "weight": jax.random.uniform(
                    weight, (inputs, outputs), dtype, -bound, bound
                ),
                "bias": jax.random.uniform(bias, (outputs,), dtype, -bound, bound),
            }
        )
    return layers


def apply(params: Params, x: jax.Array, compute: DTypeLike | None = None) -> jax.Array:
    """Outputs of the last layer: [rows, inputs] -> [rows, outputs].

    Args:
      params: as drawn by `init`.
      x: inputs.
      compute: type of the matrix products; None: that of the parameters.
    """
    for number, layer in enumerate(params):
        weight = layer["weight"]
        x = product(
            "ri,io->ro",
            x.astype(compute or weight.dtype),
            weight.astype(compute or weight.dtype),
            weight.dtype,
        )
        x = x + layer["bias"]
        if number + 1 < len(params):
            x = jax.nn.relu(x)
    return x
