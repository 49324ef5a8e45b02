"""Writes Python code, for users to copy, that trains with a method outside of lrjax."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrjax import plugins
from lrjax.core import Method


def snippet(method: Method, hparams: Mapping[str, Any], horizon: int) -> str:
    """Python code that trains with a method, given `params`, `loss_fn` and `batches`.

    Plain Optax if that computes exactly the same, otherwise with the folder
    lrjax/optim, which needs only JAX and Optax.

    Args:
      method: trains.
      hparams: a value for each of its hyperparameters.
      horizon: updates of a run.
    """
    if plain := _plain(method, hparams, horizon):
        return plain + _LOOP.format(given=_NO_VALUE)
    loop = f"tx = optax.with_extra_args_support(tx)\n{_LOOP.format(given=_VALUE)}"
    values = [f"{name}={_text(value)}" for name, value in sorted(hparams.items())]
    if not method.code:
        return f"{_own(method, values, horizon)}{loop}"
    values = "".join(f"    {value},\n" for value in values)
    return (
        f"{_IMPORTS}tx = {method.code}(\n    {horizon},  # updates\n{values})\n{loop}"
        "params = optim.eval_params(opt_state, params)  # to evaluate and to keep\n"
    )


def _own(method: Method, values: Sequence[str], horizon: int) -> str:
    """Code of the transformation `tx` of a user's method.

    Args:
      method: the method.
      values: its hyperparameters, as 'name=value'.
      horizon: updates of a run.
    """
    function = getattr(method.build, "__wrapped__", None)
    code = f"# {method.name} is your own method\nimport jax\nimport optax\n"
    name = getattr(function, "__name__", method.name)
    if plugins.is_path(method.name):
        module, name = method.name.split(":")
        code += f"from {module} import {name.partition('.')[0]}\n"
        if plugins.at(method.name) is not function:  # but a lrjax.core.Method
            function = None
    if function is None:
        call, first = f"{name}.build", [str(horizon)]
    else:
        takes_horizon = "horizon" in inspect.signature(function).parameters
        call, first = name, [f"horizon={horizon}"] if takes_horizon else []
    return f"{code}\ntx = {call}({', '.join([*first, *values])})\n"


def _text(value: Any) -> str:
    """A hyperparameter as a Python expression; infinity has no literal."""
    if isinstance(value, float) and math.isinf(value):
        return f'float("{value}")'
    return repr(value)


_IMPORTS = """\
# Optax has no such method, or another one of that name. The folder lrjax/optim (with an
# empty lrjax/__init__.py beside it) can be copied: it needs JAX and Optax alone.
import jax
import optax
from lrjax import optim
from lrjax.optim import builders

"""

_LOOP = """\
opt_state = tx.init(params)


@jax.jit
def step(params, opt_state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = tx.update({given})
    return optax.apply_updates(params, updates), opt_state, loss


for batch in batches:
    params, opt_state, loss = step(params, opt_state, batch)
"""

_NO_VALUE = "grads, opt_state, params"
# For methods that use the loss.
_VALUE = """
        grads,
        opt_state,
        params,
        value=loss,
        value_fn=lambda params: loss_fn(params, batch),
        grad_fn=lambda params: jax.grad(loss_fn)(params, batch),
    """

# `Method.code` -> the exact equivalent in Optax, a template of its hyperparameters.
_OPTAX = {
    "builders.scheduled(optim.sgd)": (
        "optax.sgd(learning_rate, momentum={momentum}, nesterov={nesterov})"
    ),
    **{
        f"builders.scheduled(optim.{name})": (
            f"optax.{name}(learning_rate, b1={{b1}}, b2={{b2}}, eps={{eps}}, "
            "weight_decay={weight_decay})"
        )
        for name in ("adamw", "nadamw")
    },
}


def _plain(method: Method, hparams: Mapping[str, Any], horizon: int) -> str:
    """Code of the transformation `tx` in plain Optax; '' if that is not exact."""
    schedule = hparams.get("schedule", "constant")
    if method.code not in _OPTAX or schedule not in ("constant", "cosine"):
        return ""
    peak = hparams["learning_rate"]
    warmup = hparams.get("warmup_fraction", 0.0)
    if schedule == "constant" and not warmup:
        rate = f"learning_rate = {peak!r}\n"
    else:
        rate = _scheduled(peak, warmup, schedule == "cosine", horizon)
    built = _OPTAX[method.code].format(**{k: repr(v) for k, v in hparams.items()})
    if "weight_decay" not in _OPTAX[method.code] and hparams["weight_decay"]:
        decay = f"optax.add_decayed_weights({hparams['weight_decay']!r})"
        built = f"optax.chain({decay}, {built})"
    arrays = "import jax.numpy as jnp\n" if "jnp." in rate else ""
    return f"import jax\n{arrays}import optax\n\n{rate}tx = {built}\n"


def _scheduled(peak: float, warmup: float, falls: bool, horizon: int) -> str:
    """Code of a schedule that rises linearly to its peak, then stays or falls.

    Args:
      peak: the largest rate.
      warmup: the share of updates in which it rises.
      falls: whether it falls along a cosine after that.
      horizon: updates of a run.
    """
    given, body = f"horizon = {horizon}  # updates of the training\n", ""
    rate, at = repr(peak), "step / horizon"
    if warmup:
        given += f"warmup = {warmup!r} * horizon\n"
        rate += " * jnp.minimum(step / warmup, 1)"
        at = "(step - warmup) / (horizon - warmup)"
    if falls:
        body = f"    part = jnp.clip({at}, 0, 1)\n"
        rate += " * (1 + jnp.cos(jnp.pi * part)) / 2"
    return f"{given}\n\ndef learning_rate(step):\n{body}    return {rate}\n\n\n"
