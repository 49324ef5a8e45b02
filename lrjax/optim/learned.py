"""AdamW whose learning rate is set by a small network, trained for this."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import re
import stat
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrjax.optim import base, bounds
from lrjax.optim.baselines import adamw
from lrjax.optim.observation import (
    OBSERVED,
    Window,
    empty_window,
    noise_share,
    observe,
)

Weights = Mapping[str, Any]
SHIPPED = pathlib.Path(__file__).with_suffix(".npz")
_REACH = 3.0  # powers of ten by which the network can raise or lower the rate
_LARGEST = 10**6  # bytes in a file of weights
# Windows has neither, and would translate ends of lines.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_WAIT |= getattr(os, "O_BINARY", 0)
_PLAIN_ZIP = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PINNED = re.compile(r"(.+)@([0-9a-f]{16})", re.DOTALL)


def network(weights: Weights, observation: jax.Array) -> jax.Array:
    """The network: returns the factor of the rate, 10^(3 tanh(a layer of tanh units)).

    Args:
      weights: 'hidden' [7, units], 'hidden_bias' [units], 'out' [units], 'out_bias' [].
      observation: [7] or longer; only the entries of `OBSERVED` are used.
    """
    dtype = observation.dtype
    hidden, hidden_bias, out, out_bias = (
        jnp.asarray(weights[name], dtype)
        for name in ("hidden", "hidden_bias", "out", "out_bias")
    )
    units = jnp.tanh(observation[: len(OBSERVED)] @ hidden + hidden_bias)
    return 10.0 ** (_REACH * jnp.tanh(units @ out + out_bias))


def load(policy: str | pathlib.Path = "shipped") -> dict[str, np.ndarray]:
    """Read weights of `network` from an npz file; nothing is unpickled.

    Args:
      policy: path of the file or 'shipped', optionally with a digest from `pinned`.

    Raises:
      ValueError: if the file cannot be read, is not a file of weights, or its numbers
        do not match the digest; one line.
    """
    name, digest = _parts(str(policy))
    path = SHIPPED if name == "shipped" else pathlib.Path(os.path.expanduser(name))
    try:
        weights = _arrays(_content(path))
    except Exception as error:  # zipfile, zlib and NumPy raise various types
        message = getattr(error, "strerror", None) or str(error)
        reason = " ".join(message.split())[:80] or type(error).__name__
        shown = " ".join(str(path).split())[-80:]
        raise ValueError(f"{shown}: not weights of a policy ({reason})") from None
    units = np.shape(weights.get("out", 0))
    expected = {
        "hidden": (len(OBSERVED), *units),
        "hidden_bias": units,
        "out": units,
        "out_bias": (),
    }
    if len(units) != 1 or {k: np.shape(v) for k, v in weights.items()} != expected:
        raise ValueError(
            f"{path}: not weights of a policy that sees {len(OBSERVED)} numbers"
        )
    for name, value in weights.items():
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise ValueError(f"{path}: '{name}' has numbers that are not finite floats")
    if digest and digest != _digest(weights):
        raise ValueError(f"{path}: holds other weights than those asked for, {digest}")
    return weights


def _content(path: pathlib.Path) -> bytes:
    """Read a regular file of at most 1 MB, without waiting for a pipe."""
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags | _NO_WAIT)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError("not a file of at most 1 MB")
    return content


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """Arrays of an npz file, of at most 1 MB together."""
    weights, size = {}, 0
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        for member in members.infolist():
            size += member.file_size
            if size > _LARGEST or member.compress_type not in _PLAIN_ZIP:
                raise ValueError("more than 1 MB when decompressed")
            with members.open(member) as stream:
                array = io.BytesIO(stream.read(_LARGEST))
            name = member.filename.removesuffix(".npy")
            weights[name] = np.lib.format.read_array(array, allow_pickle=False)
    return weights


def pinned(policy: str) -> str:
    """Add a digest of its numbers to a policy's name: 'mine.npz@0123456789abcdef'.

    `load` refuses this name if the numbers in the file have changed.

    Raises:
      ValueError: as `load`.
    """
    return f"{_parts(policy)[0]}@{_digest(load(policy))}"


def _parts(policy: str) -> tuple[str, str]:
    """Split a policy into name and digest; '' if there is no digest."""
    match = _PINNED.fullmatch(policy)
    return (match[1], match[2]) if match else (policy, "")


def _digest(weights: Weights) -> str:
    """Hash of the weights, 16 hexadecimal digits."""
    sha256 = hashlib.sha256()
    for name, value in sorted(weights.items()):
        sha256.update(f"{name} {np.shape(value)} ".encode())
        sha256.update(np.asarray(value, "<f8").tobytes())
    return sha256.hexdigest()[:16]


class LearnedState(NamedTuple):
    """State of `learned`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update; 0 before it.
      last_loss: mean loss of the window before this one; -inf if there was none.
      window: sums since the last action.
      average_square: average of the gradients' squared norms.
      inner: state of Adam.
    """

    count: jax.Array
    learning_rate: jax.Array
    last_loss: jax.Array
    window: Window
    average_square: jax.Array
    inner: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def learned(
    horizon: base.Scalar,
    learning_rate: base.Scalar = 1e-2,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    actions: base.Scalar = 100,
    policy: str | Weights = "shipped",
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW whose learning rate is set by a small network, trained on other tasks.

    The network sets the rate once in `horizon / actions` updates, from what `observe`
    returns.

    Args:
      horizon: total number of updates.
      learning_rate: factor of the network's output.
      b1, b2, eps, weight_decay, weight_decay_mask: as in `adamw`.
      actions: how many times the rate is set; at most once per update.
      policy: weights of `network`, or the argument of `load`.

    Returns:
      The transformation, for parameters of any shapes; `update` needs `value`, the
      loss.

    Raises:
      ValueError: if `policy` is not a file of weights.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.ones(2)
      >>> transformation = optim.learned(horizon=1000)
      >>> state = transformation.init(params)
      >>> _, state = transformation.update(params, state, params, value=1.0)
      >>> bool(0 < optim.effective_learning_rate(state) < 10)
      True

    References:
      A method of lrjax (docs/methods.md). The network was trained by the evolution
      strategies of Salimans et al., `Evolution Strategies as a Scalable Alternative to
      Reinforcement Learning <https://arxiv.org/abs/1703.03864>`_, 2017.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.POSITIVE, horizon=horizon, actions=actions)
    if isinstance(policy, str):
        weights: Weights = load(policy)
    else:
        weights = policy
    adam = adamw(1.0, b1, b2, eps, weight_decay, weight_decay_mask)

    def init(params):
        dtype = base.scalar_dtype(params)
        return LearnedState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=jnp.zeros((), dtype),
            last_loss=base.none_yet(dtype),
            window=empty_window(dtype),
            average_square=jnp.zeros((), dtype),
            inner=adam.init(params),
        )

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        dtype = state.learning_rate.dtype
        loss = jnp.asarray(base.require_value("value", value), dtype)
        scale, length, times, memory = base.scalars(
            dtype, learning_rate, horizon, actions, b1
        )
        count = state.count.astype(dtype)
        square = base.sum_squares(updates, dtype)
        average_square = memory * state.average_square + (1 - memory) * square
        steps, inner = adam.update(updates, state.inner, params)
        correction = base.bias_correction(memory, state.count + 1)
        mean_square = base.sum_squares(inner.exp_avg, dtype)
        seen_window = state.window.add_batch(loss, square)
        seen = observe(
            count / length,
            seen_window,
            state.last_loss,
            state.learning_rate,
            noise_share(average_square, mean_square / correction),
        )
        every = jnp.maximum(jnp.floor(length / times), 1)
        acts = count % every == 0
        chosen = (scale * network(weights, seen)).astype(dtype)
        rate = jnp.where(acts, chosen, state.learning_rate)
        steps = jax.tree.map(lambda u: (rate * u).astype(u.dtype), steps)
        square_step = base.sum_squares(steps, dtype)
        window = jax.tree.map(
            lambda old, new: jnp.where(acts, new, old), seen_window, empty_window(dtype)
        )
        return steps, LearnedState(
            count=state.count + 1,
            learning_rate=rate,
            last_loss=jnp.where(acts, seen_window.loss, state.last_loss),
            window=window.add_update(square_step),
            average_square=average_square,
            inner=inner,
        )

    return optax.GradientTransformationExtraArgs(init, update)
