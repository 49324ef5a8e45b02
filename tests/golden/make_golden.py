"""Make the golden trajectories, from the authors' own packages where there are any.

Needs the packages of requirements.txt, which the tests do not:
    python tests/golden/make_golden.py [FILE ...]

With names of files, such as `dog`, it makes these alone.
Every run goes in float64 (PyTorch's default type too: some packages keep scalars in
it) and takes its gradients, at its own parameters, from the losses of problems.py.
Methods without a package come from references.py, and say so in `source`.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any
from unittest import mock

import alig.th
import alig.th.projection
import dadaptation
import dog
import jax
import mechanic_pytorch
import momo
import numpy as np
import parameterfree
import prodigyopt
import prodigyplus
import pytorch_optimizer
import references
import salsa.SaLSA
import schedulefree
import torch
from authors import AUTHORS
from gradient_descent_the_ultimate_optimizer import gdtuo
from jax.flatten_util import ravel_pytree
from problems import (
    CHECKPOINTS,
    DIRECTORY,
    FILES,
    GROUPED_METHODS,
    GROUPS,
    PROBLEMS,
    SLICES,
    SQUARE,
    STEPS,
    Problem,
    group_of,
    loss_after,
    problem,
)
from settings import GROUPED, SCHEDULES, SETTINGS, SLICED, UNSTABLE
from trac_optimizer import trac as trac_optimizer

PACKAGES = (
    "torch",
    "dadaptation",
    "prodigyopt",
    "schedulefree",
    "parameterfree",
    "dog-optimizer",
    "mechanic-pytorch",
    "momo-opt",
    "alig",
    "SaLSa-Optimizer",
    "gradient-descent-the-ultimate-optimizer",
    "jax",
    "numpy",
    "pytorch_optimizer",
    "prodigy-plus-schedule-free",
    "trac-optimizer",
)

RENAMED = {
    "learning_rate": "lr",
    "b3": "beta3",
    "lower_bound": "lb",
    "adapt_lower_bound": "use_fstar",
    "wealth": "w",
}


def official_names(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments under lrjax's names, for the authors' code."""
    kwargs = {RENAMED.get(key, key): value for key, value in kwargs.items()}
    if "b1" in kwargs:
        kwargs["betas"] = (kwargs.pop("b1"), kwargs.pop("b2"))
    return kwargs


class RatedCOCOB(parameterfree.COCOB):
    """The authors' COCOB, whose package has no learning rate, on scaled gradients."""

    def __init__(
        self, params, lr=1.0, weight_decay=0.0, decay_after_rate=False, **kwargs
    ):
        super().__init__(params, weight_decay=weight_decay, **kwargs)
        for group in self.param_groups:
            decay = group["weight_decay"]
            group["lr"] = lr
            group["weight_decay"] = decay if decay_after_rate else 0.0
            group["decay_before"] = decay - group["weight_decay"]

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.add_(p.detach(), alpha=group["decay_before"]).mul_(group["lr"])
        super().step()


class RatedKT(parameterfree.KT):
    """The authors' KT, whose package has no learning rate, on scaled gradients."""

    def __init__(self, params, lr=1.0, weight_decay=0.0, **kwargs):
        super().__init__(params, weight_decay=weight_decay, **kwargs)
        (self.group,) = self.param_groups
        self.group |= {"lr": lr, "decay": weight_decay}

    def step(self):
        rate = self.group["lr"]
        self.group["weight_decay"] = rate * self.group["decay"]
        for p in self.group["params"]:
            p.grad.mul_(rate)
        super().step()


def schedule_free_prodigy(
    params, momentum=0.9, b2=0.999, r=0.0, weight_lr_power=2.0, **kwargs
):
    """The authors' wrapper around the authors' Prodigy without momentum."""
    base = prodigyopt.Prodigy(params, betas=(0.0, b2), **kwargs)
    return schedulefree.ScheduleFreeWrapper(
        base, momentum=momentum, r=r, weight_lr_power=weight_lr_power
    )


TUNED = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def mechanic(params, base_optimizer, **kwargs):
    """The authors' wrapper around PyTorch's SGD or AdamW."""
    name, base_kwargs = base_optimizer
    mechanized = mechanic_pytorch.mechanize(TUNED[name], **kwargs)
    return mechanized(params, **official_names(base_kwargs))


def trac(params, base_optimizer, **kwargs):
    """The authors' wrapper around PyTorch's SGD, Adam or AdamW, which writes a log."""
    name, base_kwargs = base_optimizer
    trac_optimizer.erf_torch = trac_optimizer.ERF_1994(128)  # in the type of the run
    tuned = trac_optimizer.start_trac(os.devnull, TUNED[name], **kwargs)
    return tuned(params, **official_names(base_kwargs))


def dadapt_adan(params, b1=0.98, b2=0.92, b3=0.99, **kwargs):
    """The authors' code, whose three decays are one argument."""
    return dadaptation.DAdaptAdan(params, betas=(b1, b2, b3), **kwargs)


def adamg(params, b1=0.95, b2=0.999, b3=0.95, decouple=False, **kwargs):
    """The package's AdamG, whose three decays are one argument."""
    betas, others = (b1, b2, b3), {"weight_decouple": decouple, "foreach": False}
    return pytorch_optimizer.AdamG(params, betas=betas, **others, **kwargs)


class Wide:
    """PyTorch whose narrower types are float64, for code that names its types."""

    float32 = bfloat16 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class WidePlus(prodigyplus.ProdigyPlusScheduleFree):
    """The authors' Prodigy Plus in float64, with one distance, not factored."""

    def __init__(self, params, **kwargs):
        options = {"split_groups": False, "factored": False}
        super().__init__(params, stochastic_rounding=False, **options, **kwargs)
        for name in ("running_d_numerator", "running_d_denom"):
            self.param_groups[0][name] = self.param_groups[0][name].double()

    def step(self):
        core = prodigyplus.core_optimiser, prodigyplus.prodigy_plus_schedulefree
        with contextlib.ExitStack() as stack:
            for module in core:
                stack.enter_context(mock.patch.object(module, "torch", Wide()))
            double = mock.patch.object(torch.Tensor, "float", torch.Tensor.double)
            stack.enter_context(double)
            super().step()


def prodigy_plus_schedule_free(params, b1=0.9, b2=0.99, b3=None, slice_p=1, **kwargs):
    """The authors' code, which takes every eleventh entry."""
    assert slice_p == 11
    groups = [group for group in params if group["params"]]
    return WidePlus(groups, betas=(b1, b2), beta3=b3, **kwargs)


def radam(params, decouple=False, **kwargs):
    """PyTorch's RAdam."""
    return torch.optim.RAdam(params, decoupled_weight_decay=decouple, **kwargs)


class CappedAliG(alig.th.AliG):
    """The authors' ALI-G, whose cap is the learning rate, on a ball of a radius."""

    def __init__(self, groups, lr=None, momentum=0, max_norm=None, **kwargs):
        super().__init__(groups, lr, momentum, **kwargs)
        params = [p for group in self.param_groups for p in group["params"]]
        if max_norm is not None:  # after the constructor, which would project `params`
            self.projection = lambda: alig.th.projection.l2_projection(params, max_norm)

    def step(self, loss):
        for group in self.param_groups:
            group["max_lr"] = group.get("lr", group["max_lr"])
        super().step(lambda: float(loss))


class UltimateAdam:
    """The authors' stack Adam / SGD / SGD, given gradients in the place of a loss.

    Their gradients of hyperparameters come from the loss through the last update, of
    which only the derivative in the parameters matters.
    """

    def __init__(
        self,
        groups,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        hypergrad_lr=1e-5,
        hyper_hypergrad_lr=0.0,
    ):
        self.param_groups = groups
        self.adam = gdtuo.Adam(
            lr,
            *betas,
            np.log10(eps),
            gdtuo.SGD(hypergrad_lr, optimizer=gdtuo.SGD(hyper_hypergrad_lr)),
        )
        self.adam.eps = eps
        own = {str(i): p for i, p in enumerate(groups[0]["params"])}
        self.wrapper = gdtuo.Optimizable(own, self.adam)

    def step(self):
        """Take the step, and put the parameters where the caller's are."""
        params = self.param_groups[0]["params"]
        grads = [p.grad for p in params]
        self.wrapper.begin()
        self.wrapper.zero_grad()
        own = self.wrapper.parameters
        loss = sum((own[str(i)] * g).sum() for i, g in enumerate(grads))
        loss.backward(create_graph=True)
        self.adam.step(own)
        for i, param in enumerate(params):
            with torch.no_grad():
                param.copy_(own[str(i)])


class Salsa(salsa.SaLSA.SaLSA):
    """The authors' SaLSA, whose constants are options."""

    def __init__(
        self,
        groups,
        lr=1.0,
        betas=(0.9, 0.999),
        beta3=0.9,
        use_momentum=False,
        **kwargs,
    ):
        params = groups[0]["params"]
        momentum = (*betas, beta3)
        super().__init__(params, lr, momentum=momentum, use_mv=use_momentum, **kwargs)


# method -> (source, what builds the optimizer)
OFFICIAL: dict[str, tuple[str, Callable]] = {
    "sgd": ("torch SGD", torch.optim.SGD),
    "adamw": ("torch AdamW", torch.optim.AdamW),
    "dadapt_adam": ("dadaptation DAdaptAdam", dadaptation.DAdaptAdam),
    "dadapt_sgd": ("dadaptation DAdaptSGD", dadaptation.DAdaptSGD),
    "dadapt_adagrad": ("dadaptation DAdaptAdaGrad", dadaptation.DAdaptAdaGrad),
    "dadapt_lion": ("dadaptation DAdaptLion", dadaptation.DAdaptLion),
    "prodigy": ("prodigyopt Prodigy", prodigyopt.Prodigy),
    "cocob": ("parameterfree COCOB", RatedCOCOB),
    "kt": ("parameterfree KT", RatedKT),
    "dog": ("dog-optimizer DoG", dog.DoG),
    "ldog": ("dog-optimizer LDoG", dog.LDoG),
    "schedule_free_sgd": (
        "schedulefree SGDScheduleFree",
        schedulefree.SGDScheduleFree,
    ),
    "schedule_free_adamw": (
        "schedulefree AdamWScheduleFree",
        schedulefree.AdamWScheduleFree,
    ),
    "schedule_free_radam": (
        "schedulefree RAdamScheduleFree",
        schedulefree.RAdamScheduleFree,
    ),
    "schedule_free_prodigy": (
        "schedulefree ScheduleFreeWrapper(prodigyopt Prodigy(b1=0))",
        schedule_free_prodigy,
    ),
    "momo": ("momo-opt Momo", momo.Momo),
    "momo_adam": ("momo-opt MomoAdam", momo.MomoAdam),
    "mechanic": ("mechanic-pytorch mechanize", mechanic),
    "trac": ("trac-optimizer start_trac", trac),
    **AUTHORS,
    "ali_g": ("alig AliG", CappedAliG),
    "ultimate_adam": ("gdtuo Adam / SGD / SGD", UltimateAdam),
    "salsa": ("SaLSa-Optimizer SaLSA", Salsa),
    "dadapt_adan": ("dadaptation DAdaptAdan", dadapt_adan),
    "adamg": ("pytorch-optimizer AdamG", adamg),
    "radam": ("torch RAdam", radam),
    "prodigy_plus_schedule_free": (
        "prodigyplus ProdigyPlusScheduleFree",
        prodigy_plus_schedule_free,
    ),
}


# Built from arguments under lrjax's names.
OWN_NAMES = ("dadapt_adan", "adamg", "prodigy_plus_schedule_free")


def parameter_groups(method: str, params: list, kwargs: dict[str, Any]) -> list[dict]:
    """Matrices and vectors, each with a weight decay and a learning rate of its own.

    Takes what is said of groups out of `kwargs`, which are under lrjax's names.
    """
    mask = kwargs.pop("weight_decay_mask", None)
    factors = kwargs.pop("learning_rate_factors", None)
    if mask is None and factors is None:
        return [{"params": params}]
    groups = []
    for name in ("matrices", "vectors"):
        group = {"params": [p for p in params if group_of(p) == name]}
        if mask is not None and not mask[name]:
            group["weight_decay"] = 0.0
        # D-Adaptation's Adam has factors of the step; all others have a rate or none.
        if factors is not None and factors[name] == 0:
            group["lr"] = 0.0
        elif factors is not None and factors[name] != 1:
            assert method == "dadapt_adam"
            group["layer_scale"] = factors[name]
        groups.append(group)
    return groups


def flat(tensors) -> np.ndarray:
    """All values of some tensors in a row."""
    return np.concatenate([np.ravel(np.asarray(t.detach())) for t in tensors])


def size_of_step(method: str, optimizer, before: np.ndarray, after: np.ndarray):
    """MoMo's tau, which it does not keep, from what became of the parameters."""
    group = optimizer.param_groups[0]
    states = [optimizer.state[p] for p in group["params"]]
    direction = flat([state["grad_avg"] for state in states])
    shrinking = group["lr"] * group["weight_decay"]
    if method == "momo_adam":
        b2, eps = group["betas"][1], group["eps"]
        second = flat([state["grad_avg_sq"] for state in states])
        correction = 1 - b2 ** states[0]["step"]
        direction = direction / (np.sqrt(second / correction) + eps)
    if method == "momo_adam" and not optimizer.divide:
        moved = before * (1 - shrinking) - after
    else:
        moved = before - after * (1 + shrinking)
    return moved @ direction / (direction @ direction or 1.0)


def scalars(method: str, optimizer, before: np.ndarray, after: np.ndarray) -> dict:
    """What a method keeps about its step size."""
    group = optimizer.param_groups[0]
    owner = FILES.get(method)
    with_d = ("dadapt", "dadapt_adan", "prodigy", "prodigy_plus_schedule_free")
    if owner in with_d or method == "schedule_free_prodigy":
        return {"d": group["d"]}
    if len(optimizer.param_groups) > 1:
        return {}
    if method in ("dog", "ldog"):
        etas = [float(eta) for eta in group["eta"]]
        return {"eta": etas if method == "ldog" else etas[0]}
    if method == "adog":
        return {"eta": float(group["eta_y"][0])}
    if method == "kt":
        return {"eta": group["lr"] * optimizer._wealth / optimizer._iter}
    if owner in ("schedule_free", "schedule_free_plus"):
        return {name: group[name] for name in ("scheduled_lr", "weight_sum")}
    if owner == "momo":
        tau = size_of_step(method, optimizer, before, after)
        return {"tau": tau, "lower_bound": float(optimizer.lb)}
    if method == "ali_g":
        return {"eta": optimizer.step_size}
    if method == "salsa":
        return {"eta": float(optimizer.step_size)}
    if method == "ultimate_adam":
        return {"eta": float(optimizer.adam.parameters["alpha"])}
    if method in ("mechanic", "trac"):
        return {"s": float(optimizer.state[f"_{method}"]["s"].sum())}
    return {}


def eval_points(optimizer, params: list) -> dict[str, np.ndarray]:
    """x and z of a schedule-free method, whose parameters are y, left as they are."""
    states = [optimizer.state[p] for p in params]
    if "x" in states[0]:
        return {"z": flat(s["z"] for s in states), "eval": flat(s["x"] for s in states)}
    group = optimizer.param_groups[0]
    own = isinstance(optimizer, schedulefree.ScheduleFreeWrapper)
    momentum = optimizer.momentum if own else group.get("momentum")
    momentum = group["betas"][0] if momentum is None else momentum
    z = [state["z"] for state in states]
    ends = zip(params, z, strict=True)
    return {
        "z": flat(z),
        "eval": flat([y.lerp(z, weight=1 - 1 / momentum) for y, z in ends]),
    }


def closure_of(params: list, unflatten: Callable, loss: Callable, step: int):
    """The closure that a line search calls; the gradients are there already."""

    def closure(backwards: bool = False) -> torch.Tensor:
        return torch.tensor(float(loss(unflatten(flat(params)), step)))

    return closure


def official_run(
    method: str,
    of: Problem,
    kwargs: dict,
    schedule: np.ndarray | None,
    averaging: float | None,
    still: int,
) -> Iterator[tuple[dict[str, np.ndarray], dict]]:
    """Points and scalars after each update of the authors' optimizer."""
    model = torch.nn.ParameterList(torch.tensor(leaf) for leaf in of.init.values())
    params, kwargs = list(model), dict(kwargs)
    groups = parameter_groups(method, params, kwargs)
    frozen = [group.get("lr") == 0 for group in groups]
    if method in OWN_NAMES and "learning_rate" in kwargs:
        kwargs["lr"] = kwargs.pop("learning_rate")
    named = kwargs if method in OWN_NAMES else official_names(kwargs)
    optimizer = OFFICIAL[method][1](groups, **named)
    averages = method.startswith("schedule_free") or isinstance(optimizer, WidePlus)
    if averages:
        optimizer.train()
    averager = dog.PolynomialDecayAverager(model, averaging) if averaging else None
    told = jax.jit(loss_after(still, of.loss))
    gradient = jax.jit(jax.value_and_grad(told))
    for step in range(STEPS):
        if schedule is not None:
            for group, stands in zip(optimizer.param_groups, frozen, strict=True):
                group["lr"] = 0.0 if stands else float(schedule[step])
        before = flat(params)
        loss, grads = gradient(of.unflatten(before), step)
        for param, grad in zip(params, grads.values(), strict=True):
            param.grad = torch.tensor(np.asarray(grad))
        if method == "salsa":
            optimizer.step(closure_of(params, of.unflatten, told, step))
        elif method in ("momo", "momo_adam", "ali_g", "schedule_free_plus"):
            optimizer.step(loss=torch.tensor(float(loss)))
        else:
            optimizer.step()
        points = {"params": flat(params)}
        if averages:
            points |= eval_points(optimizer, params)
        if isinstance(optimizer, WidePlus):
            del points["z"]  # the tests do not look at it
        if method == "adog":
            points["eval"] = flat(optimizer.param_groups[0]["y_bar"])
        if averager is not None:
            averager.step()
            points["eval"] = flat(averager.averaged_model.parameters())
        yield points, scalars(method, optimizer, before, points["params"])


# Default rates of methods that have a reference, where not 1.
RATES = {
    "hypergradient_adam": 1e-3,
    "dec_sps": 10.0,
    "l4_adam": 0.15,
    "l4_momentum": 0.15,
    "osgm": 0.1,
    "autolrs": 0.01,
    "adgd": 0.2,
    "barzilai_borwein": 0.1,
    "cdat": 2.0,
}


def reference_run(
    method: str,
    of: Problem,
    kwargs: dict,
    schedule: np.ndarray | None,
    averaging: float | None,
    still: int,
) -> Iterator[tuple[dict[str, np.ndarray], dict]]:
    """Points and scalars after each update of a reference."""
    assert averaging is None
    kwargs = dict(kwargs)
    rate = kwargs.pop("learning_rate", RATES.get(method, 1.0))
    rates = np.full(STEPS, rate) if schedule is None else schedule
    # The reference has the study's rule, which is the authors' at a rate of 1.
    assert kwargs.pop("normalize_rate", False) or method != "dowg" or rate == 1
    told = loss_after(still, of.loss)
    gradient, loss = jax.jit(jax.grad(told)), jax.jit(told)

    def grad(step: int, x: np.ndarray) -> np.ndarray:
        leaves = gradient(of.unflatten(x), step).values()
        return np.concatenate([np.ravel(leaf) for leaf in leaves])

    if "value" in inspect.signature(getattr(references, method)).parameters:
        kwargs["value"] = lambda step, x: float(loss(of.unflatten(x), step))
    if method in ("hypergradient_adam", "multirate_sgd"):
        ends = np.cumsum([0] + [leaf.size for leaf in of.init.values()])
        kwargs["leaves"] = list(itertools.starmap(slice, itertools.pairwise(ends)))
    start = np.concatenate([leaf.ravel() for leaf in of.init.values()])
    if method == "cdat":
        _, unravel = ravel_pytree(dict(of.init))
        hessian = jax.jit(jax.hessian(lambda x, step: told(unravel(x), step)))
        kwargs["hessian"] = lambda step, x: np.asarray(hessian(x, step))
    run = getattr(references, method)(start, grad, rates, **kwargs)
    for x, values in run:
        yield {"params": x}, values


def make_problems() -> None:
    """Write problems.npz."""
    rng = np.random.default_rng(20240817)
    basis, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    hessian = basis * np.logspace(-4, 0, 12) @ basis.T
    order = [rng.permutation(64) for _ in range(7)]
    batches = np.concatenate(order)[: STEPS * 8].reshape(STEPS, 8)
    arrays = {
        "quadratic/hessian": (hessian + hessian.T) / 2,
        "quadratic/minimum": rng.normal(size=12),
        "quadratic/init/x": rng.normal(size=12),
        "softmax/init/W": 0.1 * rng.normal(size=(6, 3)),
        "softmax/init/b": 0.1 * rng.normal(size=3),
        "mlp/init/W1": rng.normal(size=(6, 5)) / np.sqrt(6),
        "mlp/init/b1": 0.1 * rng.normal(size=5),
        "mlp/init/W2": rng.normal(size=(5, 3)) / np.sqrt(5),
        "mlp/init/b2": 0.1 * rng.normal(size=3),
    }
    inputs = rng.normal(size=(64, 6))
    # Labels that are no function of the inputs: the loss stays away from zero.
    scores = inputs @ rng.normal(size=(6, 3)) + rng.gumbel(size=(64, 3))
    for name in ("softmax", "mlp"):
        arrays |= {
            f"{name}/inputs": inputs,
            f"{name}/labels": np.argmax(scores, axis=1),
            f"{name}/batches": batches,
        }
    np.savez_compressed(DIRECTORY / "problems.npz", **arrays)


def make_file(
    file: str, settings: dict[str, dict], problems: Sequence[str], versions: dict
) -> None:
    """Write the runs of the methods of one file."""
    records, arrays = [], {}
    for method in settings:
        for setting, options in settings[method].items():
            kwargs = dict(options)
            schedule = SCHEDULES.get(kwargs.pop("schedule", ""))
            averaging, still = kwargs.pop("averaging", None), kwargs.pop("still", 0)
            source, run = "reference written from the algorithm", reference_run
            if method in OFFICIAL:
                source, run = OFFICIAL[method][0], official_run
            for name in problems:
                if (method, setting, name) in UNSTABLE:
                    continue
                index = len(records)
                records.append(
                    {
                        "method": method,
                        "name": setting,
                        "problem": name,
                        "kwargs": kwargs,
                        "averaging": averaging,
                        "still": still,
                        "source": source,
                    }
                )
                if schedule is not None:
                    arrays[f"{index}/lr_schedule"] = schedule
                told = problem(name), kwargs, schedule, averaging, still
                path = list(run(method, *told))
                for kind in path[-1][0]:
                    rows = [path[step - 1][0][kind] for step in CHECKPOINTS]
                    arrays[f"{index}/{kind}"] = np.array(rows)
                for kind in path[-1][1]:
                    values = [values.get(kind, np.nan) for _, values in path]
                    arrays[f"{index}/scalar/{kind}"] = np.array(values)
                assert all(np.isfinite(a).all() for a in arrays.values()), records[-1]
    np.savez_compressed(
        DIRECTORY / f"{file}.npz",
        cases=np.array(json.dumps(records)),
        versions=np.array(json.dumps(versions)),
        **arrays,
    )


def make_square() -> None:
    """Write square.npz: a noisy least-squares problem in a square matrix."""
    rng = np.random.default_rng(20261128)

    def matrix(least: float) -> np.ndarray:
        left, _ = np.linalg.qr(rng.normal(size=(4, 4)))
        right, _ = np.linalg.qr(rng.normal(size=(4, 4)))
        return left * np.geomspace(least, 1, 4) @ right

    arrays = {
        "init/X": rng.normal(size=(4, 4)),
        "left": matrix(0.3),
        "right": matrix(0.3),
        "aim": rng.normal(size=(4, 4)) + 0.5 * rng.normal(size=(STEPS, 4, 4)),
    }
    named = {f"{SQUARE}/{name}": array for name, array in arrays.items()}
    np.savez_compressed(DIRECTORY / f"{SQUARE}.npz", **named)


def all_files() -> dict[str, tuple[dict[str, dict], Sequence[str]]]:
    """The settings and the problems of every file."""
    files = {
        file: {m: SETTINGS[m] for m, owner in FILES.items() if owner == file}
        for file in sorted(set(FILES.values()))
    }
    told = {file: (settings, PROBLEMS) for file, settings in files.items()}
    told["soap"] = (files["soap"], (*PROBLEMS, SQUARE))
    assert tuple(GROUPED) == GROUPED_METHODS
    return told | {GROUPS: (GROUPED, ("mlp",)), SLICES: (SLICED, PROBLEMS)}


def main(chosen: Sequence[str]) -> None:
    jax.config.update("jax_enable_x64", True)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    versions = {name: metadata.version(name) for name in PACKAGES}
    files = all_files()
    if not chosen:
        make_problems()
        make_square()
        problem.cache_clear()
    for file in chosen or files:
        make_file(file, *files[file], versions)


if __name__ == "__main__":
    main(sys.argv[1:])
