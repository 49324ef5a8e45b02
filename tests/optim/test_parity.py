"""Trajectories of the official implementations, step by step, in float64.

Golden files are `<method>__<setting>__<problem>.npz` beside `problem_<problem>.npz`, in
the directory that LRJAX_GOLDEN_DIR names. Each run computes its own gradients.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim

TOLERANCE = 1e-9
STEPS = (1, 2, 5, 10, 50)

_DIRECTORY = os.environ.get("LRJAX_GOLDEN_DIR")

# Official setting -> our call. `lr` is the golden run's schedule, or 1.0 without one.
SETTINGS = {
    "cdowg/default": lambda lr: optim.cdowg(),
    "cdowg/eps1e-4": lambda lr: optim.cdowg(eps=1e-4),
    "cocob/alpha_eps": lambda lr: optim.cocob(alpha=10, eps=1e-4),
    "cocob/default": lambda lr: optim.cocob(),
    "cocob/studycopy_wcos": lambda lr: optim.cocob(lr),
    "cocob/studycopy_wd_lr": lambda lr: optim.cocob(lr, weight_decay=0.05),
    "cocob/trackable_wd_lr": lambda lr: optim.cocob(
        0.1, weight_decay=0.05, decay_after_rate=True
    ),
    "cocob/wd": lambda lr: optim.cocob(weight_decay=0.05),
    "dadapt_adagrad/default": lambda lr: optim.dadapt_adagrad(),
    "dadapt_adagrad/growth_lr": lambda lr: optim.dadapt_adagrad(
        0.5, growth_rate=1.05, eps=1e-4, d0=1e-3
    ),
    "dadapt_adagrad/mom_wd": lambda lr: optim.dadapt_adagrad(
        momentum=0.9, weight_decay=0.01, d0=1e-4
    ),
    "dadapt_adam/bc": lambda lr: optim.dadapt_adam(use_bias_correction=True),
    "dadapt_adam/bc_betas_d0_lr": lambda lr: optim.dadapt_adam(
        0.5, b1=0.8, b2=0.99, d0=1e-4, eps=1e-6, use_bias_correction=True
    ),
    "dadapt_adam/bc_warm_from_0": lambda lr: optim.dadapt_adam(
        lr, use_bias_correction=True
    ),
    "dadapt_adam/bc_wcos": lambda lr: optim.dadapt_adam(lr, use_bias_correction=True),
    "dadapt_adam/bc_wd_coupled": lambda lr: optim.dadapt_adam(
        weight_decay=0.1, use_bias_correction=True
    ),
    "dadapt_adam/bc_wd_decoupled": lambda lr: optim.dadapt_adam(
        weight_decay=0.1, decouple=True, use_bias_correction=True
    ),
    "dadapt_adam/default": lambda lr: optim.dadapt_adam(),
    "dadapt_adam/growth": lambda lr: optim.dadapt_adam(growth_rate=1.05, d0=1e-3),
    "dadapt_adam/studycopy_default": lambda lr: optim.dadapt_adam(decouple=True),
    "dadapt_lion/default": lambda lr: optim.dadapt_lion(),
    "dadapt_lion/wcos": lambda lr: optim.dadapt_lion(lr),
    "dadapt_lion/wd_betas": lambda lr: optim.dadapt_lion(
        b1=0.95, b2=0.98, weight_decay=0.1, d0=1e-4
    ),
    "dadapt_sgd/default": lambda lr: optim.dadapt_sgd(),
    "dadapt_sgd/growth_lr": lambda lr: optim.dadapt_sgd(0.5, growth_rate=1.05, d0=1e-3),
    "dadapt_sgd/mom_wd": lambda lr: optim.dadapt_sgd(
        momentum=0.9, weight_decay=0.01, d0=1e-4
    ),
    "dog/default": lambda lr: optim.polynomial_averaging(optim.dog()),
    "dog/init_eta": lambda lr: optim.dog(init_eta=0.01),
    "dog/init_eta_lr": lambda lr: optim.dog(0.5, init_eta=0.01),
    "dog/lr": lambda lr: optim.dog(0.5, reps_rel=1e-3),
    "dog/lr_wcos": lambda lr: optim.dog(lr, reps_rel=1e-3),
    "dog/reps_wd": lambda lr: optim.polynomial_averaging(
        optim.dog(reps_rel=1e-3, weight_decay=0.05)
    ),
    "dowg/default": lambda lr: optim.dowg(),
    "dowg/eps1e-8": lambda lr: optim.dowg(eps=1e-8),
    "dowg/studycopy_default": lambda lr: optim.dowg(eps=1e-8, normalize_rate=True),
    "dowg/studycopy_lr": lambda lr: optim.dowg(0.1, eps=1e-8, normalize_rate=True),
    "dowg/studycopy_wcos": lambda lr: optim.dowg(lr, eps=1e-8, normalize_rate=True),
    "hd_adam/default": lambda lr: optim.hypergradient_adam(),
    "hd_adam/hlr_wd": lambda lr: optim.hypergradient_adam(
        b1=0.8, b2=0.99, hypergrad_lr=1e-4, weight_decay=0.01
    ),
    "hd_sgd/default": lambda lr: optim.hypergradient_sgd(0.01),
    "hd_sgd/hlr": lambda lr: optim.hypergradient_sgd(
        0.01, hypergrad_lr=1e-4, weight_decay=0.01
    ),
    "hd_sgd/nesterov": lambda lr: optim.hypergradient_sgd(
        1e-3, momentum=0.9, nesterov=True, hypergrad_lr=1e-5
    ),
    "ldog/default": lambda lr: optim.polynomial_averaging(optim.ldog()),
    "ldog/reps_wd": lambda lr: optim.ldog(reps_rel=1e-3, weight_decay=0.05),
    "mechanic/adamw_default": lambda lr: optim.mechanic(
        optim.adamw(1.0, weight_decay=0.0)
    ),
    "mechanic/sgd_default": lambda lr: optim.mechanic(optim.sgd(1.0)),
    "mechanic/sgd_nodecay_sinit": lambda lr: optim.mechanic(
        optim.sgd(1.0), s_decay=0.0, s_init=1e-6
    ),
    "momo/bias_corr": lambda lr: optim.momo(bias_correction=True),
    "momo/default": lambda lr: optim.momo(),
    "momo/fstar": lambda lr: optim.momo(10.0, lower_bound=-1.0, adapt_lower_bound=True),
    "momo/lr_wd": lambda lr: optim.momo(10.0, beta=0.8, weight_decay=0.05),
    "momo_adam/default": lambda lr: optim.momo_adam(),
    "momo_adam/fstar": lambda lr: optim.momo_adam(
        0.1, lower_bound=-1.0, adapt_lower_bound=True
    ),
    "momo_adam/lr_wd": lambda lr: optim.momo_adam(
        0.1, b1=0.8, b2=0.99, weight_decay=0.05
    ),
    "momo_adam/wd_nodivide": lambda lr: optim.momo_adam(
        0.1, weight_decay=0.05, divide=False
    ),
    "prodigy/bc": lambda lr: optim.prodigy(use_bias_correction=True),
    "prodigy/bc_betas_d0_dcoef": lambda lr: optim.prodigy(
        0.5,
        b1=0.8,
        b2=0.99,
        b3=0.97,
        d0=1e-4,
        d_coef=2.0,
        eps=1e-6,
        use_bias_correction=True,
    ),
    "prodigy/bc_safeguard_warm_from_0": lambda lr: optim.prodigy(
        lr, safeguard_warmup=True, use_bias_correction=True
    ),
    "prodigy/bc_safeguard_wcos": lambda lr: optim.prodigy(
        lr, safeguard_warmup=True, use_bias_correction=True
    ),
    "prodigy/bc_warm_from_0": lambda lr: optim.prodigy(lr, use_bias_correction=True),
    "prodigy/bc_wcos": lambda lr: optim.prodigy(lr, use_bias_correction=True),
    "prodigy/bc_wd_coupled": lambda lr: optim.prodigy(
        weight_decay=0.1, decouple=False, use_bias_correction=True
    ),
    "prodigy/bc_wd_decoupled": lambda lr: optim.prodigy(
        weight_decay=0.1, use_bias_correction=True
    ),
    "prodigy/beta1_0": lambda lr: optim.prodigy(
        b1=0.0, b2=0.99, use_bias_correction=True
    ),
    "prodigy/default": lambda lr: optim.prodigy(),
    "prodigy/growth": lambda lr: optim.prodigy(growth_rate=1.05, d0=1e-3),
    "prodigy/studycopy_default": lambda lr: optim.prodigy(),
    "sf_adamw/default": lambda lr: optim.schedule_free_adamw(),
    "sf_adamw/eps": lambda lr: optim.schedule_free_adamw(0.01, eps=1e-3),
    "sf_adamw/r": lambda lr: optim.schedule_free_adamw(0.01, r=0.5),
    "sf_adamw/warmup": lambda lr: optim.schedule_free_adamw(0.01, warmup_steps=20),
    "sf_adamw/wd_betas": lambda lr: optim.schedule_free_adamw(
        0.01, b1=0.95, b2=0.99, weight_decay=0.1
    ),
    "sf_prodigy/default": lambda lr: optim.schedule_free_prodigy(),
    "sf_prodigy/wd": lambda lr: optim.schedule_free_prodigy(weight_decay=0.1, d0=1e-4),
    "sf_radam/default": lambda lr: optim.schedule_free_radam(),
    "sf_sgd/default_lr1": lambda lr: optim.schedule_free_sgd(),
    "sf_sgd/lr0.1": lambda lr: optim.schedule_free_sgd(0.1),
    "sf_sgd/r_power": lambda lr: optim.schedule_free_sgd(
        0.1, warmup_steps=20, r=1.0, weight_lr_power=1.0
    ),
    "sf_sgd/warmup": lambda lr: optim.schedule_free_sgd(0.1, warmup_steps=20),
    "sf_sgd/wd_mom": lambda lr: optim.schedule_free_sgd(
        0.1, weight_decay=0.05, momentum=0.95
    ),
    "stormplus/lr_c_wd": lambda lr: optim.storm_plus(
        0.3, c=10.0, weight_decay=0.01, normalized_norm=True, double_decay=True
    ),
    "stormplus/study_protocol": lambda lr: optim.storm_plus(normalized_norm=True),
    "stormplus/unnormalized": lambda lr: optim.storm_plus(),
}


def _cross_entropy(logits, labels):
    rows = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(rows, labels[:, None], axis=1))


def _loss(problem, params, batch):
    """The loss of the golden problem on the rows `batch`."""
    if "H" in problem:
        (x,) = params
        moved = x - problem["x_star"]
        return 0.5 * moved @ problem["H"] @ moved
    inputs, labels = problem["X"][batch], problem["y"][batch]
    if len(params) == 4:
        w1, b1, w2, b2 = params
        return _cross_entropy(jnp.tanh(inputs @ w1 + b1) @ w2 + b2, labels)
    w, b = params
    return _cross_entropy(inputs @ w + b, labels)


@functools.lru_cache
def _problem(name):
    with np.load(pathlib.Path(_DIRECTORY) / f"problem_{name}.npz") as data:
        return {key: data[key] for key in data.files}


def _run(build, problem, schedule):
    """Parameters, points to evaluate at, and learning rates after each step."""
    names = [str(name) for name in problem["param_names"]]
    params = [jnp.asarray(problem[f"init_{name}"]) for name in names]
    data = {key: jnp.asarray(problem[key]) for key in problem if key != "param_names"}
    rate = 1.0
    if schedule is not None:
        table = jnp.asarray(schedule)
        rate = lambda count: table[count]  # noqa: E731
    transformation = build(rate)
    steps = max(STEPS)
    batches = problem.get("batch_idx", np.zeros((steps, 1), int))[:steps]

    def step(carry, batch):
        params, state = carry
        loss = lambda p: _loss(data, p, batch)  # noqa: E731
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = transformation.update(
            grads, state, params, value=value, grad_fn=jax.grad(loss)
        )
        params = optax.apply_updates(params, updates)
        rate = optim.effective_learning_rate(state)
        return (params, state), (params, optim.eval_params(state, params), rate)

    carry = params, transformation.init(params)
    _, (params, points, rates) = jax.jit(
        lambda carry: jax.lax.scan(step, carry, jnp.asarray(batches))
    )(carry)
    return names, *jax.tree.map(np.asarray, (params, points, rates))


def _deviation(found, golden):
    deviation = np.max(np.abs(found - golden)) / max(np.max(np.abs(golden)), 1e-12)
    return float(np.nan_to_num(deviation, nan=np.inf))


def deviations(path):
    """Largest relative deviation from a golden run: of parameters, of averages."""
    with np.load(path) as golden:
        settings = json.loads(str(golden["settings_json"]))
        schedule = golden["lr_schedule"] if "lr_schedule" in golden.files else None
        with jax.enable_x64(True):
            names, params, points, _ = _run(
                SETTINGS[settings["method"]], _problem(settings["problem"]), schedule
            )
        result = {"params": [], "eval_x": [], "avg": []}
        for step in STEPS:
            for index, name in enumerate(names):
                for point, found in zip(result, (params, points, points), strict=True):
                    key = f"step{step}/{point}/{name}".replace("params/", "")
                    if key in golden.files:
                        result[point].append(
                            _deviation(found[index][step - 1], golden[key])
                        )
    return {point: max(found) for point, found in result.items() if found}


def _golden_files():
    if _DIRECTORY is None:
        reason = "LRJAX_GOLDEN_DIR names no directory of golden trajectories"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    files = sorted(pathlib.Path(_DIRECTORY).glob("*__*__*.npz"))
    return [pytest.param(path, id=path.stem) for path in files]


@pytest.mark.parametrize("path", _golden_files())
def test_equals_official_trajectory(path):
    for name, deviation in deviations(path).items():
        assert deviation < TOLERANCE, name
