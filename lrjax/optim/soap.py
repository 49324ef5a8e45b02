"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds

_TINY = 1e-30  # beside a root mean square
_NOISE = 100  # rounding errors of eigenvalues, in units of the largest one's


class SoapState(NamedTuple):
    """State of `soap`.

    Attributes:
      count: number of updates made, with the first, which does not move.
      learning_rate: the rate of the last update; before it, of the first.
      exp_avg: average of gradients, in the eigenbases.
      exp_avg_sq: average of squared gradients, in the eigenbases.
      grams: for each leaf a tuple, for its turned axes of n entries, of averages [n, n]
        of the gradient times itself.
      bases: the same with the eigenvectors of the grams, as columns.
    """

    count: jax.Array
    learning_rate: jax.Array
    exp_avg: Any
    exp_avg_sq: Any
    grams: Any
    bases: Any


def _turn(
    array: jax.Array, bases: Sequence[jax.Array], axes: Sequence[bool], back: bool
) -> jax.Array:
    """Turn the axes of an array to their eigenbases, or back."""
    left = iter(bases)
    for turned in axes:  # the first axis goes to the end
        if turned:
            array = jnp.tensordot(
                array, next(left), ((0,), (int(back),)), precision="highest"
            )
        else:
            array = jnp.moveaxis(array, 0, -1)
    return array


def _when(wanted: jax.Array, fn: Callable[[Any], Any], value: Any) -> Any:
    """`fn(value)` if `wanted`, else `value`.

    A loop of at most one round: unlike `lax.cond`, it computes nothing in a population
    whose members all do not want it.
    """

    def body(carry):
        wanted, value = carry
        return jnp.zeros_like(wanted), fn(value)

    return jax.lax.while_loop(lambda carry: carry[0], body, (wanted, value))[1]


def _eigenvectors(gram: jax.Array) -> jax.Array:
    """Eigenvectors as columns, those of the largest eigenvalues first.

    The first gradient may have a low rank, which leaves some of them open. They are
    completed from the unit vectors, so that rounding errors do not choose.
    """
    values, vectors = jnp.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    size, eps = gram.shape[0], jnp.finfo(gram.dtype).eps
    is_open = values <= _NOISE * size * eps * values[0]
    unit = jnp.eye(size, dtype=gram.dtype)
    basis = jnp.linalg.qr(jnp.where(is_open, unit, vectors))[0]
    largest = jnp.argmax(jnp.abs(basis), axis=0)
    # Signs are open, too, and make no difference to steps.
    return basis * jnp.sign(jnp.take_along_axis(basis, largest[None], axis=0))


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def soap(
    learning_rate: base.ScalarOrSchedule = 3e-3,
    b1: base.Scalar = 0.95,
    b2: base.Scalar = 0.95,
    shampoo_beta: base.Scalar | None = None,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 1e-2,
    precondition_frequency: base.Scalar = 10,
    max_precond_dim: int = 10000,
    precondition_1d: bool = False,
    normalize_grads: bool = False,
    use_bias_correction: bool = True,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam in the slowly changing eigenbasis of Shampoo's preconditioner.

    For a matrix of gradients G

    .. math::
      L_t &= \beta_s L_{t-1} + (1-\beta_s) G_t G_t^T, \quad
      R_t = \beta_s R_{t-1} + (1-\beta_s) G_t^T G_t \\
      x_{t+1} &= (1 - \gamma_t w) (x_t - \gamma_t Q_L N_t Q_R^T)

    where :math:`N_t` is Adam's direction for the gradients :math:`Q_L^T G Q_R`, and the
    columns of Q are the eigenvectors of L and R: exactly at first, then by a step of
    the power method with a QR decomposition in each `precondition_frequency` updates.
    The first update finds Q and does not move. Arrays of other ranks alike, axis by
    axis; for vectors and for axes that are too long it is Adam.

    On one batch that stays the same, the next gradients are near diagonal in the basis
    of the first. What is left beside the diagonal is small, in float32 mostly rounding,
    and Adam's division makes full steps of it: equal runs may part (docs/methods.md has
    figures, of the official code, too). Batches that change, or an `eps` of 1e-4, keep
    them together.

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count.
      b1: decay of the first moment.
      b2: decay of the second moment.
      shampoo_beta: decay :math:`\beta_s` of L and R; `b2` if None.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient w of weight decay, times the learning rate.
      precondition_frequency: updates from one QR decomposition to the next.
      max_precond_dim: longest axis that is turned. Static.
      precondition_1d: whether vectors are turned, too. Static.
      normalize_grads: whether each leaf's step is divided by its root mean square;
        "helps at large `precondition_frequency`". Static.
      use_bias_correction: whether to use Adam's bias correction. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes, with the official defaults. Of
      an axis of n entries the state keeps two matrices [n, n]. A complex array
      [..., n] counts as [..., 2 n].

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([[2.0, 1.0], [0.0, 1.0]])
      >>> transformation = optim.soap(weight_decay=0.0)
      >>> state = transformation.init(params)
      >>> for gradient in (params, jnp.array([[1.0, 3.0], [2.0, -1.0]])):
      ...     updates, state = transformation.update(gradient, state, params)
      >>> [[round(abs(float(u)), 4) for u in row] for row in updates]
      [[0.0, 0.0042], [0.0042, 0.0]]

    References:
      Vyas et al., `SOAP: Improving and Stabilizing Shampoo using Adam
      <https://arxiv.org/abs/2409.11321>`_, 2024. Official implementation: ``SOAP`` of
      nikhilvyas/SOAP, whose options `merge_dims` and `data_format` are left out. A
      gradient whose square is not finite is left out of L and R. Eigenvectors that the
      rank of the first gradient leaves open, and rounding errors decide officially,
      are chosen.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2, shampoo_beta=shampoo_beta)
    bounds.check(bounds.COUNT, precondition_frequency=precondition_frequency)
    longest = bounds.size("max_precond_dim", max_precond_dim)

    def turned_axes(leaf):
        """For each axis whether it is turned."""
        if not leaf.size or (leaf.ndim == 1 and not precondition_1d):
            return (False,) * leaf.ndim
        return tuple(size <= longest for size in leaf.shape)

    def squares(leaf, make):
        """A tuple of matrices for the turned axes of a leaf."""
        axes = zip(leaf.shape, turned_axes(leaf), strict=True)
        return tuple(make(size, dtype=leaf.dtype) for size, turned in axes if turned)

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return SoapState(
            count=count,
            learning_rate=base.rate_at(learning_rate, count, base.scalar_dtype(params)),
            exp_avg=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
            grams=jax.tree.map(
                lambda p: squares(p, lambda n, dtype: jnp.zeros((n, n), dtype)), params
            ),
            bases=jax.tree.map(lambda p: squares(p, jnp.eye), params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2, epsilon = base.scalars(dtype, b1, b2, eps)
        beta = beta2 if shampoo_beta is None else jnp.asarray(shampoo_beta, dtype)
        moves = state.count > 0
        every = jnp.asarray(precondition_frequency).astype(jnp.int32)
        renews = moves & (state.count % every == 0)
        step_size = jnp.where(moves, rate, 0)
        if use_bias_correction:
            count = jnp.maximum(state.count, 1)
            step_size *= jnp.sqrt(base.bias_correction(beta2, count))
            step_size /= base.bias_correction(beta1, count)

        def renew(carry, grams, axes):
            """New bases by a QR decomposition, and the moments in them."""
            m, v, bases = carry
            plain, renewed, left = _turn(m, bases, axes, True), [], iter(bases)
            left = iter(zip(grams, bases, strict=True))
            for axis, turned in enumerate(axes):
                if not turned:
                    continue
                gram, basis = next(left)
                product = jnp.matmul(gram, basis, precision="highest")
                order = jnp.argsort(jnp.sum(basis * product, axis=0), descending=True)
                v = jnp.take(v, order, axis)
                renewed.append(jnp.linalg.qr(product[:, order])[0])
            return _turn(plain, renewed, axes, False), v, tuple(renewed)

        def update_leaf(grad, param, m, v, grams, bases, has_decay):
            axes = turned_axes(param)
            # Flax NNX makes mappings, 0 to the first, of tuples at a leaf.
            grams, bases = (
                tuple(each[i] for i in range(len(each))) for each in (grams, bases)
            )
            grad = grad.astype(param.dtype)
            turned = _turn(grad, bases, axes, False)
            new_m = beta1 * m + (1 - beta1) * turned
            new_v = beta2 * v + (1 - beta2) * (turned * turned)
            new_m = jnp.where(moves, new_m.astype(m.dtype), m)
            new_v = jnp.where(moves, new_v.astype(v.dtype), v)
            direction = new_m / (jnp.sqrt(new_v) + epsilon)
            direction = _turn(direction.astype(m.dtype), bases, axes, True)
            if normalize_grads:
                size = jnp.sqrt(jnp.mean(jnp.square(direction)))
                direction = direction / (_TINY + size)
            moved = -step_size * direction
            if has_decay:
                (decay,) = base.scalars(dtype, weight_decay)
                shrinking = jnp.where(moves, rate * decay, 0)
                moved = moved - shrinking * (param + moved)
            if not any(axes):
                return moved.astype(param.dtype), new_m, new_v, grams, bases

            others = [
                [other for other in range(grad.ndim) if other != axis]
                for axis, turned in enumerate(axes)
                if turned
            ]
            products = [
                jnp.tensordot(grad, grad, (rest, rest), precision="highest")
                for rest in others
            ]
            finite = jnp.isfinite(jnp.sum(grad * grad))
            new_grams = tuple(
                jnp.where(finite, gram + (1 - beta) * (product - gram), gram).astype(
                    gram.dtype
                )
                for gram, product in zip(grams, products, strict=True)
            )
            bases = _when(~moves, lambda _: tuple(map(_eigenvectors, new_grams)), bases)
            new_m, new_v, bases = _when(
                renews,
                lambda carry: renew(carry, new_grams, axes),
                (new_m, new_v, bases),
            )
            return moved.astype(param.dtype), new_m, new_v, new_grams, bases

        changes, *kept = base.map_leaves(
            update_leaf,
            5,
            updates,
            params,
            state.exp_avg,
            state.exp_avg_sq,
            state.grams,
            state.bases,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, SoapState(state.count + 1, rate, *kept)

    return optax.GradientTransformationExtraArgs(init, update)
