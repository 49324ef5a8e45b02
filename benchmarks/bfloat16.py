r"""Which methods train parameters in bfloat16: the column of docs/methods.md.

  python benchmarks/bfloat16.py [--methods=a,b]

A small network of tanh units learns to classify 512 made-up rows, in 1000 steps of 64
rows. Parameters and gradients are bfloat16; the loss is computed from them in float32,
so that nothing but the optimiser's own numbers differs from training in float32. Every
method has its defaults but for `SETTINGS`. What counts is the loss over all rows at
`eval_params`: which part of its fall with float32 parameters is reached

- with the optimiser's state as it is, float32 whatever the parameters are;
- with a state in bfloat16: all that is kept for parameters, rounded after each update.

A method that reaches less than half of it in the first "does not train": its steps are
lost where parameters are rounded, as those below a 500th of a parameter's size are. Of
the others, one that loses more than a twentieth in the second "needs float32 state",
which all methods here have; what is left is "safe in bfloat16". Steps and weights of
other sizes than here give other parts.

Takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrjax import optim
from lrjax.core import Method
from lrjax.methods import METHODS, find

ROWS, INPUTS, HIDDEN, CLASSES, BATCH, STEPS = 512, 16, 32, 4, 64, 1000
ENOUGH = 0.5  # of the fall of the loss in float32
KEPT = 0.95  # of what is reached, with a state in bfloat16
# Where a rate has no default, or the defaults diverge here in float32 already.
SETTINGS = {
    "smac": {"learning_rate": 1e-3},
    "cawr_tuned": {"learning_rate": 1e-3, "T_0": 10, "t_mult": 2, "eta_min": 0.0},
    "dadapt_lion": {"learning_rate": 0.1},
    "radam": {"learning_rate": 1e-2},
    # Or where steps with the defaults are too small for so few.
    "lion": {"learning_rate": 1e-3},
    "lamb": {"learning_rate": 1e-2},
    # Or are lost in float32, too.
    "trac": {"s_prev": 1e-4},
}
SAFE, STATE, NOT = "safe in bfloat16", "needs float32 state", "does not train"


def _data() -> tuple[jax.Array, jax.Array]:
    """Normal rows, and the class that a random network gives each of them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, INPUTS))
    hidden = np.tanh(x @ rng.standard_normal((INPUTS, CLASSES)) / 2)
    return jnp.asarray(x, jnp.float32), jnp.asarray(hidden.argmax(1))


def _start() -> dict[str, jax.Array]:
    """Weights as usual: normal, of a variance of one over the number of inputs."""
    rng = np.random.default_rng(1)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape) / shape[0] ** 0.5, jnp.bfloat16)

    zeros = jnp.zeros(HIDDEN, jnp.bfloat16), jnp.zeros(CLASSES, jnp.bfloat16)
    weights = normal(INPUTS, HIDDEN), normal(HIDDEN, CLASSES)
    return {"w1": weights[0], "b1": zeros[0], "w2": weights[1], "b2": zeros[1]}


def _loss(params: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
    w1, b1, w2, b2 = (params[k].astype(jnp.float32) for k in ("w1", "b1", "w2", "b2"))
    logits = jnp.tanh(x @ w1 + b1) @ w2 + b2
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


def _rounded(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.bfloat16).astype(leaf.dtype)


def _last_loss(method: Method, dtype: Any, round_state: bool) -> jax.Array:
    tx = method.build(STEPS, **(dict(method.defaults) | SETTINGS.get(method.name, {})))
    x, labels = _data()

    def step(carry, key):
        params, state = carry
        at = jax.random.choice(key, ROWS, (BATCH,), replace=False)
        f = lambda params: _loss(params, x[at], labels[at])  # noqa: E731
        value, grads = jax.value_and_grad(f)(params)
        updates, state = tx.update(
            grads, state, params, value=value, value_fn=f, grad_fn=jax.grad(f)
        )
        if round_state:
            state = optax.tree.map_params(tx, _rounded, state)
        return (optax.apply_updates(params, updates), state), None

    params = jax.tree.map(lambda p: p.astype(dtype), _start())
    keys = jax.random.split(jax.random.key(0), STEPS)
    (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    return _loss(optim.eval_params(state, params), x, labels)


def measure(method: Method) -> tuple[float, float, float]:
    """How a method trains in bfloat16.

    Returns:
      The fall of the loss in float32, in nats, and the parts of it that are reached in
      bfloat16, with the state in float32 and in bfloat16.
    """
    first = _loss(_start(), *_data())
    kinds = ((jnp.float32, False), (jnp.bfloat16, False), (jnp.bfloat16, True))
    runs = [jax.jit(functools.partial(_last_loss, method, *kind)) for kind in kinds]
    wide, kept, rounded = (float(first - run()) for run in runs)
    return wide, kept / wide, rounded / wide


def verdict(kept: float, rounded: float) -> str:
    """What the table says of parts as `measure` gives them."""
    if kept < ENOUGH or np.isnan(kept):
        return NOT
    return SAFE if rounded >= KEPT * kept else STATE


def main() -> None:
    """Measure and print a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", help="some methods only, with commas in between")
    names = parser.parse_args().methods
    print("| method | loss falls by | float32 state | bfloat16 state | |")
    print("|---|---|---|---|---|")
    for name in names.split(",") if names else METHODS:
        wide, kept, rounded = measure(find(name))
        row = f"| `{name}` | {wide:.3f} | {kept:.2f} | {rounded:.2f} |"
        print(f"{row} {verdict(kept, rounded)} |", flush=True)


if __name__ == "__main__":
    main()
