"""Distance over gradients: DoG, L-DoG, DoWG, CDoWG, and an average for them."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import arguments, base, bounds


class DogState(NamedTuple):
    """State of `dog` and, with one entry per tensor in its vectors, of `ldog`.

    Attributes:
      count: number of updates made.
      distance: largest distance from the start so far.
      gradient_sum: sum of squared gradient norms.
      learning_rate: the step size of the last update (for `ldog` the mean over the
        tensors); -inf before it.
      start: the initial parameters.
    """

    count: jax.Array
    distance: jax.Array
    gradient_sum: jax.Array
    learning_rate: jax.Array
    start: Any


def _stack(fn, dtype, *trees) -> jax.Array:
    """Sum `fn(*leaves)` per tensor, computed in `dtype`: a vector [tensors]."""

    def leaf_sum(*leaves):
        return jnp.sum(fn(*(base.cast(leaf, dtype) for leaf in leaves)))

    sums = jax.tree.map(leaf_sum, *trees)
    return jnp.stack([jnp.zeros((), dtype), *jax.tree.leaves(sums)])[1:]


# Above 60 lines: one update rule in one piece, to be read beside its source.
def _distance_over_gradients(
    learning_rate: base.ScalarOrSchedule,
    reps_rel: base.Scalar,
    eps: base.Scalar,
    weight_decay: base.Scalar,
    init_eta: base.Scalar | None,
    weight_decay_mask: base.PerLeaf,
    layerwise: bool,
) -> optax.GradientTransformationExtraArgs:
    """DoG with a step size per tensor if `layerwise`, else one for all tensors."""
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.POSITIVE, reps_rel=reps_rel, init_eta=init_eta)

    def squares(fn, dtype, *trees):
        sums = _stack(lambda *leaves: jnp.square(fn(*leaves)), dtype, *trees)
        return sums if layerwise else jnp.sum(sums)

    def init(params):
        dtype = base.scalar_dtype(params)
        norm = jnp.sqrt(squares(lambda p: p, dtype, params))
        relative, start_sum = base.scalars(dtype, reps_rel, eps)
        if init_eta is not None:
            relative = jnp.zeros((), dtype)
        return DogState(
            count=jnp.zeros((), jnp.int32),
            distance=relative * (1 + norm),
            gradient_sum=start_sum + 0 * norm,
            learning_rate=base.none_yet(dtype),
            start=base.copy(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.distance.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)

        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)

        def gradient(grad, param, has_decay):
            return base.add_decay(grad, param, weight_decay, dtype, has_decay)

        square_distance = squares(operator.sub, dtype, params, state.start)
        distance = jnp.maximum(state.distance, base.root(square_distance))
        square_gradient = squares(gradient, dtype, updates, params, decay_flags)
        gradient_sum = state.gradient_sum + square_gradient
        # If the sum overflows, the distance may too; take no step then, instead of NaN.
        eta = rate * jnp.where(
            jnp.isinf(gradient_sum), 0, distance / jnp.sqrt(gradient_sum)
        )
        if init_eta is not None:
            (first,) = base.scalars(dtype, init_eta)
            eta = jnp.where(state.count == 0, first, eta)
        leaves, treedef = jax.tree.flatten(params)
        etas = treedef.unflatten(list(eta) if layerwise else [eta] * len(leaves))
        changes = jax.tree.map(
            lambda g, p, d, e: (-e * gradient(g, p, d)).astype(p.dtype),
            updates,
            params,
            decay_flags,
            etas,
        )
        return changes, DogState(
            count=state.count + 1,
            distance=distance,
            gradient_sum=gradient_sum,
            learning_rate=jnp.mean(eta),
            start=state.start,
        )

    return optax.GradientTransformationExtraArgs(init, update)


@base.any_leaves
def dog(
    learning_rate: base.ScalarOrSchedule = 1.0,
    reps_rel: base.Scalar = 1e-6,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    init_eta: base.Scalar | None = None,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Distance over gradients: SGD whose step size needs no tuning.

    .. math::
      \eta_t = \gamma_t \frac{\max(r_\epsilon, \max_{i \le t} \|x_i - x_0\|)}
        {\sqrt{\epsilon + \sum_{i \le t} \|g_i\|^2}}, \quad
      x_{t+1} = x_t - \eta_t g_t, \quad
      r_\epsilon = \mathrm{reps\_rel} (1 + \|x_0\|)

    "Iterate averaging is crucial to obtain the best performance": wrap it in
    `polynomial_averaging` and evaluate at `eval_params`.

    Args:
      learning_rate: factor :math:`\gamma`; "changing it is not recommended".
      reps_rel: initial distance relative to :math:`1 + \|x_0\|`; "suggested value is
        1e-6, unless the model uses batch normalization, in which case 1e-4".
      eps: initial value of the sum of squared gradient norms.
      weight_decay: coefficient of weight decay, added to the gradient.
      init_eta: if given, the first step size, instead of `reps_rel` and regardless of
        `learning_rate`.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.polynomial_averaging(optim.dog())
      >>> state = transformation.init(params)
      >>> for _ in range(100):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> averaged = optim.eval_params(state, params)
      >>> bool(jnp.abs(averaged).max() < 0.5)
      True

    References:
      Ivgi, Hinder and Carmon, `DoG is SGD's Best Friend: A Parameter-Free Dynamic Step
      Size Schedule <https://arxiv.org/abs/2302.12022>`_, 2023. Official
      implementation: ``DoG`` of formll/dog 1.0.3.
    """
    return _distance_over_gradients(
        learning_rate,
        reps_rel,
        eps,
        weight_decay,
        init_eta,
        weight_decay_mask,
        layerwise=False,
    )


@base.any_leaves
def ldog(
    learning_rate: base.ScalarOrSchedule = 1.0,
    reps_rel: base.Scalar = 1e-6,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    init_eta: base.Scalar | None = None,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""L-DoG: `dog` for each tensor on its own.

    Every tensor has its distance, its sum of squared gradient norms and its step size;
    `effective_learning_rate` gives the mean of the step sizes.

    Args:
      learning_rate: factor of the step sizes; "changing it is not recommended".
      reps_rel: initial distance relative to one plus the norm of the tensor; "suggested
        value is 1e-6, unless the model uses batch normalization, in which case 1e-4".
      eps: initial value of the sums of squared gradient norms.
      weight_decay: coefficient of weight decay, added to the gradient.
      init_eta: if given, the first step size, instead of `reps_rel` and regardless of
        `learning_rate`.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = {"large": 10 * jnp.ones(2), "small": jnp.ones(2)}
      >>> transformation = optim.ldog(reps_rel=1e-4)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(params, state, params)
      >>> [f"{distance:.1e}" for distance in state.distance]
      ['1.5e-03', '2.4e-04']

    References:
      Ivgi, Hinder and Carmon, `DoG is SGD's Best Friend: A Parameter-Free Dynamic Step
      Size Schedule <https://arxiv.org/abs/2302.12022>`_, 2023. Official
      implementation: ``LDoG`` of formll/dog 1.0.3.
    """
    return _distance_over_gradients(
        learning_rate,
        reps_rel,
        eps,
        weight_decay,
        init_eta,
        weight_decay_mask,
        layerwise=True,
    )


class DowgState(NamedTuple):
    """State of `dowg`.

    Attributes:
      count: number of updates made.
      square_distance: largest squared distance from the start so far.
      gradient_sum: sum of squared gradient norms times `square_distance`.
      learning_rate: the factor of the gradient in the last update; -inf before it.
      start: the initial parameters.
    """

    count: jax.Array
    square_distance: jax.Array
    gradient_sum: jax.Array
    learning_rate: jax.Array
    start: Any


@base.any_leaves
def dowg(
    learning_rate: base.ScalarOrSchedule = 1.0,
    eps: base.Scalar = 1e-4,
    normalize_rate: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Distance over weighted gradients.

    .. math::
      r_t^2 &= \max(r_{t-1}^2, \|x_t - x_0\|^2), \quad r_{-1}^2 = \epsilon \\
      v_t &= v_{t-1} + r_t^2 \|g_t\|^2 \\
      x_{t+1} &= x_t - \gamma_t \frac{r_t^2}{\sqrt{v_t} + \epsilon} g_t

    Args:
      learning_rate: factor :math:`\gamma`, not in the official implementation.
      eps: initial squared distance, and the term in the denominator.
      normalize_rate: multiply the gradient, also in :math:`v_t`, by the learning rate,
        instead of the finished update. A constant then cancels (up to eps); one
        published comparison works so, with eps 1e-8. Static.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.dowg()
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> f"{optim.effective_learning_rate(state):.1e}"
      '2.2e-03'

    References:
      Khaled, Mishchenko and Jin, `DoWG Unleashed: An Efficient Universal Parameter-Free
      Gradient Descent Method <https://arxiv.org/abs/2305.16284>`_, 2023, Algorithm 1.
      Official implementation: ``DoWG`` of rka97/dowg.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.POSITIVE, eps=eps)

    def init(params):
        dtype = base.scalar_dtype(params)
        return DowgState(
            count=jnp.zeros((), jnp.int32),
            square_distance=base.fresh(dtype, eps),
            gradient_sum=jnp.zeros((), dtype),
            learning_rate=base.none_yet(dtype),
            start=base.copy(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.square_distance.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        (epsilon,) = base.scalars(dtype, eps)
        current_square = base.sum_leaves(
            lambda p, p0: jnp.square(p - p0), dtype, params, state.start
        )
        square_gradient = base.sum_squares(updates, dtype)
        if normalize_rate:
            square_gradient *= jnp.square(rate)
        square_distance = jnp.maximum(state.square_distance, current_square)
        gradient_sum = state.gradient_sum + square_distance * square_gradient
        eta = rate * square_distance / (jnp.sqrt(gradient_sum) + epsilon)
        changes = jax.tree.map(lambda g, p: (-eta * g).astype(p.dtype), updates, params)
        return changes, DowgState(
            count=state.count + 1,
            square_distance=square_distance,
            gradient_sum=gradient_sum,
            learning_rate=eta,
            start=state.start,
        )

    return optax.GradientTransformationExtraArgs(init, update)


class CdowgState(NamedTuple):
    """State of `cdowg`.

    Attributes:
      count: number of updates made.
      square_distance: largest squared distance from the start so far.
      gradient_sum: sum of squared gradients times `square_distance`.
      start: the initial parameters.
    """

    count: jax.Array
    square_distance: Any
    gradient_sum: Any
    start: Any

    learning_rate = None  # there is no scalar step size


@base.any_leaves
def cdowg(
    learning_rate: base.ScalarOrSchedule = 1.0, eps: base.Scalar = 1e-8
) -> optax.GradientTransformationExtraArgs:
    r"""Coordinate-wise DoWG.

    For every coordinate:

    .. math::
      r_t^2 &= \max(r_{t-1}^2, (x_t - x_0)^2), \quad r_{-1}^2 = 10^{-4} \\
      v_t &= v_{t-1} + r_t^2 g_t^2 \\
      x_{t+1} &= x_t - \gamma_t \frac{r_t^2 g_t}{\sqrt{v_t} + \epsilon}

    There is no scalar step size: `effective_learning_rate` gives NaN.

    Args:
      learning_rate: factor :math:`\gamma`, not in the official implementation.
      eps: term in the denominator.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.cdowg()
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 3) for u in updates]
      [-0.01, 0.01]

    References:
      Khaled, Mishchenko and Jin, `DoWG Unleashed: An Efficient Universal Parameter-Free
      Gradient Descent Method <https://arxiv.org/abs/2305.16284>`_, 2023. Official
      implementation: ``CDoWG`` of rka97/dowg.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.POSITIVE, eps=eps)

    def init(params):
        return CdowgState(
            count=jnp.zeros((), jnp.int32),
            square_distance=jax.tree.map(lambda p: jnp.full_like(p, 1e-4), params),
            gradient_sum=base.zeros_like(params),
            start=base.copy(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = base.scalar_dtype(params)
        rate = base.rate_at(learning_rate, state.count, dtype)
        (epsilon,) = base.scalars(dtype, eps)

        def update_leaf(grad, param, start, square_distance, gradient_sum):
            square_distance = jnp.maximum(square_distance, jnp.square(param - start))
            gradient_sum = gradient_sum + square_distance * (grad * grad)
            change = -rate * square_distance * grad / (jnp.sqrt(gradient_sum) + epsilon)
            return change.astype(param.dtype), square_distance, gradient_sum

        changes, square_distance, gradient_sum = base.map_leaves(
            update_leaf,
            3,
            updates,
            params,
            state.start,
            state.square_distance,
            state.gradient_sum,
        )
        return changes, CdowgState(
            state.count + 1, square_distance, gradient_sum, state.start
        )

    return optax.GradientTransformationExtraArgs(init, update)


class AveragingState(NamedTuple):
    """State of `polynomial_averaging`.

    Attributes:
      count: number of updates made.
      average: weighted average of the parameters after each update.
      inner: state of the wrapped transformation.
    """

    count: jax.Array
    average: Any
    inner: Any

    def eval_params(self, params: base.PyTree) -> base.PyTree:
        """The average; `params` where a mask left no average."""
        return base.where_kept(lambda average, _: average, self.average, params)


@arguments.checked("optim")
def polynomial_averaging(
    inner: optax.GradientTransformation, gamma: base.Scalar = 8.0
) -> optax.GradientTransformationExtraArgs:
    r"""Keep an average of the iterates in which the late ones count more.

    .. math::
      \bar x_t = \left(1 - \frac{1+\gamma}{t+\gamma}\right) \bar x_{t-1}
        + \frac{1+\gamma}{t+\gamma} x_t, \quad t = 1, 2, \ldots

    Training is not changed; `eval_params` returns the average. It must be the outermost
    transformation, outside of everything that changes the updates.

    Args:
      inner: the transformation that trains, such as `dog()`.
      gamma: how fast old iterates are forgotten; 8 "is effective and does not require
        tuning".

    Returns:
      The transformation, for parameters of any shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.polynomial_averaging(optim.sgd(0.1), gamma=0.0)
      >>> state = transformation.init(params)
      >>> for _ in range(2):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> averaged = optim.eval_params(state, params)
      >>> [round(float(x), 2) for x in averaged]
      [0.72, -1.44]

    References:
      Shamir and Zhang, `Stochastic Gradient Descent for Non-smooth Optimization
      <https://arxiv.org/abs/1212.1824>`_, 2013; Ivgi, Hinder and Carmon, `DoG is SGD's
      Best Friend <https://arxiv.org/abs/2302.12022>`_, 2023. Official implementation:
      ``PolynomialDecayAverager`` of formll/dog 1.0.3.
    """
    bounds.check(bounds.NONNEGATIVE, gamma=gamma)
    inner = optax.with_extra_args_support(inner)

    def init(params):
        with arguments.named("optim.polynomial_averaging"):
            average = base.copy(base.as_real(params))
        return AveragingState(
            count=jnp.zeros((), jnp.int32), average=average, inner=inner.init(params)
        )

    def update(updates, state, params=None, **extra_args):
        with arguments.named("optim.polynomial_averaging"):
            params = base.require_params(params)
        dtype = base.scalar_dtype(state.average)
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        count = state.count + 1
        (decay,) = base.scalars(dtype, gamma)
        weight = (1 + decay) / (count.astype(dtype) + decay)
        average = jax.tree.map(
            lambda a, x: (a + weight * (x - a)).astype(a.dtype),
            state.average,
            base.as_real(optax.apply_updates(params, updates)),
        )
        return updates, AveragingState(count, average, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
