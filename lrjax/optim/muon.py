"""Muon: momentum whose matrices are made orthogonal."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds
from lrjax.optim.arguments import ArgumentError

# Of the authors' quintic iteration, which is steep at zero.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_FLOOR = 1e-7  # beside the norm of a matrix
# Parts of names of leaves that are matrices at the ends of a network.
_ENDS = ("embed", "head", "logits", "readout", "classifier")


class MuonState(NamedTuple):
    """State of `muon`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the hidden matrices in the last update; before it, in
        the first.
      exp_avg: average of gradients.
      exp_avg_sq: average of squared gradients of the other leaves.
    """

    count: jax.Array
    learning_rate: jax.Array
    exp_avg: Any
    exp_avg_sq: Any


def _hidden_matrices(params: base.PyTree) -> base.PyTree:
    """Matrices and kernels of convolutions, but for those at a network's ends."""

    def is_hidden(path, leaf):
        name = jax.tree_util.keystr(path).lower()
        return jnp.ndim(leaf) in (2, 4) and not any(end in name for end in _ENDS)

    return jax.tree_util.tree_map_with_path(is_hidden, params)


def _flags(hidden: base.PerLeaf, params: base.PyTree) -> base.PyTree:
    """Tree of booleans: which leaves are hidden matrices."""
    flags = base.each_leaf(
        "hidden", _hidden_matrices if hidden is None else hidden, params
    )

    def check(flag, leaf):
        if flag not in (True, False) or (flag and leaf.ndim < 2):
            raise ArgumentError(
                "hidden must be True or False for each leaf, True only for two or more "
                f"axes; it is {flag!r} for one of {leaf.ndim}"
            )
        return bool(flag)

    return jax.tree.map(check, flags, params)


def orthogonalise(matrix: jax.Array, steps: base.Scalar) -> jax.Array:
    """Bring all singular values of a matrix near 1, by a Newton-Schulz iteration.

    Args:
      matrix: an array [rows, columns].
      steps: number of iterations, which may be traced.
    """
    rows, columns = matrix.shape
    x = matrix.T if rows > columns else matrix
    x = x / (jnp.sqrt(jnp.sum(jnp.square(x))) + _FLOOR)

    def step(_, x):
        square = x @ x.T
        return _A * x + (_B * square + _C * (square @ square)) @ x

    x = jax.lax.fori_loop(0, jnp.asarray(steps).astype(jnp.int32), step, x)
    return x.T if rows > columns else x


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def muon(
    learning_rate: base.ScalarOrSchedule = 0.02,
    momentum: base.Scalar = 0.95,
    nesterov: bool = True,
    ns_steps: base.Scalar = 5,
    consistent_rms: base.Scalar | None = None,
    adam_factor: base.Scalar = 0.015,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.95,
    eps: base.Scalar = 1e-10,
    weight_decay: base.Scalar = 0.0,
    weight_decay_mask: base.PerLeaf = None,
    hidden: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Orthogonal momentum for hidden matrices, AdamW for all other leaves.

    For a matrix from :math:`i` inputs to :math:`o` outputs

    .. math::
      m_t &= \mu m_{t-1} + (1-\mu) g_t \\
      x_{t+1} &= (1 - \gamma_t w) x_t - \gamma_t \sqrt{\max(1, o / i)} \,
        \mathrm{NS}(\mu m_t + (1-\mu) g_t)

    where NS, five steps of a Newton-Schulz iteration, replaces singular values by ones
    between 0.7 and 1.2. Other leaves follow AdamW with the rate
    :math:`\gamma_t` times `adam_factor`.

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count; the size of the step in the spectral norm.
      momentum: :math:`\mu`; "0.95 here is usually fine".
      nesterov: whether to use Nesterov's momentum; NS(m) without. Static.
      ns_steps: steps of the iteration.
      consistent_rms: None, or a number: take it times :math:`\sqrt{\max(i, o)}` in
        place of :math:`\sqrt{\max(1, o/i)}`. With 0.2 entries move by as much as
        with AdamW, so that AdamW's rates and decay can be taken over, with an
        `adam_factor` of 1.
      adam_factor: AdamW's rate over `learning_rate`; 3e-4 over 0.02 by default.
      b1, b2, eps: AdamW's decays and the term outside of the root.
      weight_decay: coefficient w of weight decay, times the rate of the leaf.
      weight_decay_mask: the leaves that decay, as in `adamw`.
      hidden: the leaves that are hidden matrices, in the forms of `weight_decay_mask`.
        None for leaves of two or four axes whose names have none of 'embed', 'head',
        'logits', 'readout' and 'classifier'. The last axis is the output, all others
        are the input, as in Flax; a complex matrix [i, o] counts as [i, 2 o].

    Returns:
      The transformation, for parameters of any shapes, with the official defaults. The
      iteration runs in the parameters' precision, float32 or wider, not in bfloat16 as
      officially.

    Raises:
      ArgumentError: in `init`, if `hidden` does not fit the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = {"weight": jnp.eye(2), "bias": jnp.ones(2)}
      >>> transformation = optim.muon()
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(params, state, params)
      >>> bool(0.7 * 0.02 < -updates["weight"][0, 0] < 1.2 * 0.02)
      True
      >>> round(float(updates["bias"][0]), 6)
      -0.0003

    References:
      Jordan et al., `Muon: An optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024; Liu et al., `Muon is
      Scalable for LLM Training <https://arxiv.org/abs/2502.16982>`_, 2025, for
      `consistent_rms`. Official implementation: ``SingleDeviceMuonWithAuxAdam`` of
      KellerJordan/Muon; for kernels of convolutions it takes the ratio of their height
      to their width for o / i.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        weight_decay=weight_decay,
        consistent_rms=consistent_rms,
        adam_factor=adam_factor,
    )
    bounds.check(bounds.FRACTION, momentum=momentum, b1=b1, b2=b2)
    bounds.check(bounds.COUNT, ns_steps=ns_steps)

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return MuonState(
            count=count,
            learning_rate=base.rate_at(learning_rate, count, base.scalar_dtype(params)),
            exp_avg=base.zeros_like(params),
            exp_avg_sq=jax.tree.map(
                lambda flag, p: optax.MaskedNode() if flag else jnp.zeros_like(p),
                _flags(hidden, params),
                params,
            ),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        mu, beta1, beta2, epsilon, factor = base.scalars(
            dtype, momentum, b1, b2, eps, adam_factor
        )
        count = state.count + 1
        scale1 = 1 / base.bias_correction(beta1, count)
        scale2 = 1 / base.bias_correction(beta2, count)

        def orthogonal(grad, m):
            """The direction of a hidden matrix and its average."""
            new_m = mu * m + (1 - mu) * grad
            ahead = mu * new_m + (1 - mu) * grad if nesterov else new_m
            outputs = grad.shape[-1]
            inputs = math.prod(grad.shape[:-1])
            size = math.sqrt(max(1, outputs / max(inputs, 1)))
            if consistent_rms is not None:
                (rms,) = base.scalars(dtype, consistent_rms)
                size = rms * math.sqrt(max(inputs, outputs))
            flat = jnp.reshape(ahead, (inputs, outputs))
            return size * jnp.reshape(orthogonalise(flat, ns_steps), grad.shape), new_m

        def update_leaf(grad, param, m, v, has_decay):
            if isinstance(v, optax.MaskedNode):
                (direction, new_m), new_v, step = orthogonal(grad, m), v, rate
            else:
                new_m = beta1 * m + (1 - beta1) * grad
                new_v = beta2 * v + (1 - beta2) * (grad * grad)
                direction = scale1 * new_m / (jnp.sqrt(scale2 * new_v) + epsilon)
                new_v, step = new_v.astype(v.dtype), factor * rate
            change = -step * base.add_decay(
                direction, param, weight_decay, dtype, has_decay
            )
            return change.astype(param.dtype), new_m.astype(m.dtype), new_v

        changes, exp_avg, exp_avg_sq = base.map_leaves(
            update_leaf,
            3,
            updates,
            params,
            state.exp_avg,
            state.exp_avg_sq,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, MuonState(count, rate, exp_avg, exp_avg_sq)

    return optax.GradientTransformationExtraArgs(init, update)
