"""Trajectories of the authors' own code, in float64.

Two sets: the golden files of this repository, and any directory that LRJAX_GOLDEN_DIR
names, with files `<method>__<setting>__<problem>.npz` and `problem_<problem>.npz`. Each
run computes its own gradients.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
import problems  # noqa: E402

TOLERANCE = 1e-9
DIRECTORY = os.environ.get("LRJAX_GOLDEN_DIR")
STEPS = (1, 2, 5, 10, 50)  # those of LRJAX_GOLDEN_DIR that are compared

# Setting of LRJAX_GOLDEN_DIR -> our call. `lr` is the schedule of the run, or 1.0.
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


def run(transformation, init, loss, steps):
    """Parameters, points to evaluate and learning rates after each of the steps.

    `loss(params, step)` is what is minimised.
    """

    def update(carry, step):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, step)
        # Some of them wrap Optax's Adam, which takes powers by a count.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = transformation.update(
                grads,
                state,
                params,
                value=value,
                grad_fn=lambda params: jax.grad(loss)(params, step),
                value_fn=lambda params: loss(params, step),
            )
        params = optax.apply_updates(params, updates)
        rate = optim.effective_learning_rate(state)
        return (params, state), (params, optim.eval_params(state, params), rate)

    def scan(params):
        carry = params, transformation.init(params)
        return jax.lax.scan(update, carry, jnp.arange(steps))[1]

    with jax.enable_x64(True):
        quick = jax.jit(scan, compiler_options={"xla_backend_optimization_level": 0})
        return jax.tree.map(np.asarray, quick(jax.tree.map(jnp.asarray, init)))


def deviation(found, golden):
    """Largest difference, relative to the largest value of the leaf."""
    size = max(np.max(np.abs(golden)), 1e-12)
    return float(np.nan_to_num(np.max(np.abs(found - golden)) / size, nan=np.inf))


def case_deviation(case):
    """Largest deviation of our run from a golden run of this repository."""
    with jax.enable_x64(True):
        transformation = case.build()
    found, points, _ = run(
        transformation, dict(case.problem.init), case.loss, problems.STEPS
    )
    pairs = [(found, case.checkpoints), (points, case.eval_checkpoints)]
    return max(
        deviation(ours[name][step - 1], golden[name])
        for ours, checkpoints in pairs
        for step, golden in checkpoints.items()
        for name in golden
    )


def _of_problem(method, name):
    """The golden runs of a method on a problem; what has no run there is elsewhere."""
    return [case for case in problems.cases(method) if case.problem.name == name]


def _ends(cases):
    """Of a method's runs that with its defaults, and the last: with all its options."""
    return [cases[0], cases[-1]]


@pytest.mark.parametrize("method", problems.FILES)
def test_equals_golden_at_its_defaults_and_with_all_options(method):
    cases = _ends(_of_problem(method, "quadratic"))  # the quickest to compile
    found = {case.id: case_deviation(case) for case in cases}
    assert {name: d for name, d in found.items() if not d < TOLERANCE} == {}


@pytest.mark.slow
@pytest.mark.parametrize("method", problems.FILES)
@pytest.mark.parametrize("problem", ["quadratic", "softmax", "mlp"])
def test_equals_golden(method, problem):
    found = {case.id: case_deviation(case) for case in _of_problem(method, problem)}
    assert found
    assert {name: d for name, d in found.items() if not d < TOLERANCE} == {}


@pytest.mark.parametrize("method", problems.GROUPED_METHODS)
def test_masks_and_factors_equal_parameter_groups(method):
    cases = problems.cases(method, problems.GROUPS)
    found = {case.id: case_deviation(case) for case in cases}
    assert found
    assert {name: d for name, d in found.items() if not d < TOLERANCE} == {}


def test_prodigy_at_every_so_many_entries():
    cases = problems.cases("prodigy", problems.SLICES)
    found = {case.id: case_deviation(case) for case in cases}
    assert found
    assert {name: d for name, d in found.items() if not d < TOLERANCE} == {}


def _cross_entropy(logits, labels):
    rows = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(rows, labels[:, None], axis=1))


def _loss(problem):
    """The loss of a problem in LRJAX_GOLDEN_DIR."""
    data = {key: jnp.asarray(problem[key]) for key in problem if key != "param_names"}

    def loss(params, step):
        if "H" in data:
            (x,) = params
            moved = x - data["x_star"]
            return 0.5 * moved @ data["H"] @ moved
        batch = data["batch_idx"][step]
        hidden, labels = data["X"][batch], data["y"][batch]
        if len(params) == 4:
            hidden = jnp.tanh(hidden @ params[0] + params[1])
        return _cross_entropy(hidden @ params[-2] + params[-1], labels)

    return loss


def file_deviation(path):
    """Largest deviation of our run from a golden run of LRJAX_GOLDEN_DIR."""
    golden = dict(np.load(path))
    settings = json.loads(str(golden["settings_json"]))
    problem = dict(np.load(path.parent / f"problem_{settings['problem']}.npz"))
    names = [str(name) for name in problem["param_names"]]
    with jax.enable_x64(True):
        rate = 1.0
        if "lr_schedule" in golden:
            table = jnp.asarray(golden["lr_schedule"])
            rate = table.__getitem__
        transformation = SETTINGS[settings["method"]](rate)
        loss = _loss(problem)
    # A list keeps the order of the official parameters, which matters to some methods.
    init = [problem[f"init_{name}"] for name in names]
    params, points, _ = run(transformation, init, loss, max(STEPS))
    found = {"": params, "eval_x/": points, "avg/": points}
    return max(
        deviation(leaf[step - 1], golden[f"step{step}/{point}{name}"])
        for step in STEPS
        for point, leaves in found.items()
        for name, leaf in zip(names, leaves, strict=True)
        if f"step{step}/{point}{name}" in golden
    )


def _files():
    if DIRECTORY is None:
        reason = "LRJAX_GOLDEN_DIR names no directory of official trajectories"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    files = sorted(pathlib.Path(DIRECTORY).glob("*__*__*.npz"))
    return [pytest.param(path, id=path.stem) for path in files]


@pytest.mark.parametrize("path", _files())
def test_equals_official_file(path):
    assert file_deviation(path) < TOLERANCE
