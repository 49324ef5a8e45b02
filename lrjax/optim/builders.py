"""Builders: functions from a horizon and hyperparameters to an optimiser.

A method of `lrjax.methods` trains with `build(horizon, **hparams)`. `horizon` is the
number of updates that schedules are laid out for. It and every number may be traced.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import schedules
from lrjax.optim.abel import abel
from lrjax.optim.ademamix import ademamix
from lrjax.optim.autolrs import autolrs
from lrjax.optim.barzilai_borwein import barzilai_borwein
from lrjax.optim.baselines import adamw, sgd
from lrjax.optim.cdat import cdat
from lrjax.optim.dog import dog, ldog, polynomial_averaging
from lrjax.optim.mechanic import mechanic
from lrjax.optim.plateau import greedy_lr, reduce_on_plateau
from lrjax.optim.trac import trac
from lrjax.optim.trust_ratio import lamb, lars

Transformation: TypeAlias = optax.GradientTransformationExtraArgs
Optimiser: TypeAlias = Callable[..., Transformation]


def scheduled(optimiser: Optimiser) -> Optimiser:
    """Make a builder of an optimiser whose rate follows one of `schedules.SCHEDULES`.

    Returns:
      `build(horizon, learning_rate, schedule, warmup_fraction, **hparams)`. The warm-up
      is the optimiser's own where it has one.
    """
    own_warmup = "warmup_steps" in inspect.signature(optimiser).parameters

    def build(
        horizon: Any,
        learning_rate: Any,
        schedule: str,
        warmup_fraction: Any,
        **hparams: Any,
    ) -> Transformation:
        warmup_steps = warmup_fraction * horizon
        if own_warmup:
            hparams["warmup_steps"] = warmup_steps
            warmup_steps = 0
        rate = schedules.by_name(schedule, learning_rate, horizon, warmup_steps)
        return optimiser(learning_rate=rate, **hparams)

    return build


def unscheduled(optimiser: Optimiser) -> Optimiser:
    """Make a builder of an optimiser without schedule; it ignores the horizon."""
    return lambda horizon, **hparams: optimiser(**hparams)


def _averaged(optimiser: Optimiser) -> Optimiser:
    """Add polynomial averaging to an optimiser, with two more hyperparameters.

    `averaging` says whether to average, which DoG's authors call crucial; `gamma` is
    the order of the polynomial.
    """

    @functools.wraps(optimiser)
    def build(*, averaging: bool, gamma: Any, **hparams: Any) -> Transformation:
        inner = optimiser(**hparams)
        return polynomial_averaging(inner, gamma) if averaging else inner

    return build


averaged_dog, averaged_ldog = _averaged(dog), _averaged(ldog)


def cawr(
    horizon: Any,
    learning_rate: Any = 5e-3,
    T_0: Any = 10,
    t_mult: Any = 2,
    eta_min: Any = 0.0,
    end_with_cycle: bool = True,
    idle_first_step: bool = False,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    warmup_fraction: Any = 0.0,
) -> Transformation:
    """Adam with cosine annealing and warm restarts, optionally after a warm-up.

    With `end_with_cycle` the first cycle is stretched so that a cycle ends where
    training does. With `idle_first_step` the first step changes nothing and update
    k takes the rate of counter k + 1, as in the study's code, whose first
    `optimizer.step()` has no gradients yet.

    Args:
      horizon: updates of a full run.
      learning_rate, T_0, t_mult, eta_min: as for `schedules.cosine_warm_restarts`.
      end_with_cycle, idle_first_step: as said above. Static.
      b1, b2, eps, weight_decay: as for `adamw`.
      warmup_fraction: share of the horizon for the linear warm-up.
    """
    warmup_steps = warmup_fraction * horizon
    if end_with_cycle:
        T_0 = schedules.fit_first_cycle(T_0, t_mult, horizon - warmup_steps)
    rate = schedules.cosine_warm_restarts(learning_rate, T_0, t_mult, eta_min)
    rate = schedules.warmup(rate, warmup_steps)
    adam = functools.partial(adamw, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    if idle_first_step:
        return _idle_first_step(adam(lambda step: rate(step + 2)))
    return adam(rate)


class _IdleState(NamedTuple):
    """State of `_idle_first_step`.

    Attributes:
      started: whether the first step is over.
      inner: state of the wrapped transformation.
    """

    started: jax.Array
    inner: Any


def _idle_first_step(inner: Transformation) -> Transformation:
    """Make the first step change nothing, neither parameters nor state."""

    def init(params):
        return _IdleState(jnp.asarray(False), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        changes, new = inner.update(updates, state.inner, params, **extra_args)
        changes = jax.tree.map(lambda c: jnp.where(state.started, c, 0), changes)
        kept = jax.tree.map(
            lambda n, o: jnp.where(state.started, n, o), new, state.inner
        )
        return changes, _IdleState(jnp.asarray(True), kept)

    return Transformation(init, update)


def mechanic_adamw(
    learning_rate: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    weight_decay: Any = 0.0,
    s_decay: Any = 0.01,
    s_init: Any = 1e-8,
    eps: Any = 1e-8,
) -> Transformation:
    """Mechanic around AdamW.

    Args:
      learning_rate, b1, b2, weight_decay: as for `adamw`.
      s_decay, s_init, eps: as for `mechanic`.
    """
    base = adamw(learning_rate, b1, b2, weight_decay=weight_decay)
    return mechanic(base, s_decay=s_decay, s_init=s_init, eps=eps)


def trac_adamw(
    learning_rate: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    weight_decay: Any = 0.0,
    s_prev: Any = 1e-8,
    eps: Any = 1e-8,
) -> Transformation:
    """TRAC around AdamW.

    Args:
      learning_rate, b1, b2, weight_decay: as for `adamw`.
      s_prev, eps: as for `trac`.
    """
    base = adamw(learning_rate, b1, b2, weight_decay=weight_decay)
    return trac(base, s_prev=s_prev, eps=eps)


def plateau_adamw(
    horizon: Any,
    learning_rate: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    weight_decay: Any = 0.0,
    factor: Any = 0.1,
    patience: Any = 10,
    rtol: Any = 1e-4,
    cooldown: Any = 0,
    min_scale: Any = 0.0,
    observations: Any = 100,
) -> Transformation:
    """AdamW whose rate is reduced when the averaged training loss stops falling.

    Args:
      horizon: updates of a full run.
      learning_rate, b1, b2, weight_decay: as for `adamw`.
      factor, patience, rtol, cooldown, min_scale: as for `reduce_on_plateau`; patience
        and cooldown count observations.
      observations: number of values over the horizon to which the batches' losses are
        averaged.
    """
    return reduce_on_plateau(
        adamw(learning_rate, b1, b2, weight_decay=weight_decay),
        factor=factor,
        patience=patience,
        rtol=rtol,
        cooldown=cooldown,
        min_scale=min_scale,
        accumulation_size=jnp.maximum(horizon / observations, 1),
    )


def greedy_adamw(
    learning_rate: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    weight_decay: Any = 0.0,
    factor: Any = 0.95,
    patience: Any = 10,
    min_lr: Any = 1e-6,
    max_lr: Any = 1.0,
    window_size: int = 10,
) -> Transformation:
    """GreedyLR around AdamW.

    Args:
      b1, b2, weight_decay: as for `adamw`.
      learning_rate, factor, patience, min_lr, max_lr, window_size: as for `greedy_lr`.
    """
    return greedy_lr(
        adamw(1.0, b1, b2, weight_decay=weight_decay),
        learning_rate,
        factor=factor,
        patience=patience,
        min_lr=min_lr,
        max_lr=max_lr,
        window_size=window_size,
    )


def abel_sgd(
    horizon: Any,
    learning_rate: Any = 0.1,
    momentum: Any = 0.9,
    weight_decay: Any = 5e-4,
    factor: Any = 0.1,
    observations: Any = 100,
    last_fraction: Any = 0.85,
) -> Transformation:
    """SGD with momentum whose rate falls where the norm of the weights has bounced.

    Args:
      horizon: updates of a full run.
      learning_rate, momentum, weight_decay: as for `sgd`.
      factor: as for `abel`.
      observations: number of values over the horizon to which the squared norms are
        averaged; in the paper one for each epoch.
      last_fraction: part of the horizon before the last decay.
    """
    return abel(
        sgd(learning_rate, momentum, weight_decay=weight_decay),
        factor=factor,
        accumulation_size=jnp.maximum(horizon / observations, 1),
        last_decay=last_fraction * horizon,
    )


def barzilai_borwein_sgd(
    horizon: Any,
    learning_rate: Any = 0.1,
    periods: Any = 50,
    weight: Any = 10.0,
    smoothing: bool = False,
    max_learning_rate: Any = float("inf"),
) -> Transformation:
    """SGD with Barzilai-Borwein step sizes, which change `periods` times in a run.

    Args:
      horizon: updates of a full run.
      learning_rate, weight, smoothing, max_learning_rate: as for `barzilai_borwein`.
      periods: number of periods over the horizon, each of one update at least.
    """
    return barzilai_borwein(
        learning_rate,
        period_steps=jnp.maximum(jnp.round(horizon / periods), 1),
        weight=weight,
        smoothing=smoothing,
        max_learning_rate=max_learning_rate,
    )


def _searched(
    base_optimizer: Transformation,
    horizon: Any,
    stages: Any,
    search_fraction: Any,
    candidates: int,
    **hparams: Any,
) -> Transformation:
    """AutoLRS in stages of equal length that fill the horizon and end in training.

    Args:
      base_optimizer: what it wraps, with rate 1.
      horizon: updates of a full run.
      stages: number of stages; fewer where trials would be shorter than ten updates.
      search_fraction: share of the updates that trials take, rounded down.
      candidates: number of trials of a stage. Static.
      hparams: others, as for `autolrs`.
    """
    most = search_fraction * horizon // (10 * candidates)
    number = jnp.maximum(jnp.minimum(stages, most), 1)
    length = jnp.ceil(horizon / number)
    trial_steps = jnp.minimum(search_fraction * length, length - 1) // candidates
    return autolrs(
        base_optimizer,
        train_steps=length - candidates * trial_steps,
        trial_steps=trial_steps,
        candidates=candidates,
        **hparams,
    )


def autolrs_sgd(
    horizon: Any,
    learning_rate: Any = 0.01,
    momentum: Any = 0.9,
    weight_decay: Any = 0.0,
    span: Any = 10.0,
    stages: Any = 5,
    search_fraction: Any = 0.5,
    candidates: int = 10,
    kappa: Any = 2.0,
) -> Transformation:
    """AutoLRS around SGD with momentum.

    Args:
      horizon, stages, search_fraction, candidates: as for `_searched`.
      momentum, weight_decay: as for `sgd`.
      learning_rate, span, kappa: as for `autolrs`.
    """
    return _searched(
        sgd(1.0, momentum, weight_decay=weight_decay),
        horizon,
        stages,
        search_fraction,
        candidates,
        learning_rate=learning_rate,
        span=span,
        kappa=kappa,
    )


def autolrs_adamw(
    horizon: Any,
    learning_rate: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    weight_decay: Any = 0.0,
    span: Any = 10.0,
    stages: Any = 5,
    search_fraction: Any = 0.5,
    candidates: int = 10,
    kappa: Any = 2.0,
) -> Transformation:
    """AutoLRS around AdamW.

    Args:
      horizon, stages, search_fraction, candidates: as for `_searched`.
      b1, b2, weight_decay: as for `adamw`.
      learning_rate, span, kappa: as for `autolrs`.
    """
    return _searched(
        adamw(1.0, b1, b2, weight_decay=weight_decay),
        horizon,
        stages,
        search_fraction,
        candidates,
        learning_rate=learning_rate,
        span=span,
        kappa=kappa,
    )


def cdat_adamw(
    learning_rate: Any = 2.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    weight_decay: Any = 0.0,
    beta: Any = 0.9,
    eps: Any = 0.0,
) -> Transformation:
    """CDAT around AdamW.

    Args:
      learning_rate, beta, eps: as for `cdat`.
      b1, b2, weight_decay: as for `adamw`.
    """
    base = adamw(1.0, b1, b2, weight_decay=weight_decay)
    return cdat(base, learning_rate, beta=beta, eps=eps)


def ademamix_warm(
    horizon: Any,
    learning_rate: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 2.0,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    schedule: str = "cosine",
    warmup_fraction: Any = 0.05,
) -> Transformation:
    """AdEMAMix with the warm-ups of `b3` and `alpha` over the whole run.

    Args:
      horizon: updates of a full run.
      learning_rate, b1, b2, b3, alpha, eps, weight_decay: as for `ademamix`.
      schedule, warmup_fraction: as for `scheduled`.
    """
    rate = schedules.by_name(
        schedule, learning_rate, horizon, warmup_fraction * horizon
    )
    return ademamix(
        rate,
        b1,
        b2,
        b3,
        alpha,
        b3_warmup=horizon,
        alpha_warmup=horizon,
        eps=eps,
        weight_decay=weight_decay,
    )


def _matrices(params: Any) -> Any:
    """Leaves that are no biases and no scales of norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _for_matrices(optimiser: Optimiser) -> Optimiser:
    """Give vectors neither decay nor a trust ratio, as the authors do."""

    @functools.wraps(optimiser)
    def build(**hparams: Any) -> Transformation:
        return optimiser(**hparams, weight_decay_mask=_matrices)

    return build


lars_matrices, lamb_matrices = _for_matrices(lars), _for_matrices(lamb)
