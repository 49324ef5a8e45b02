"""PyTorch's optimisers and schedules for the methods that have them."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from lrjax.messages import UsageError, unknown
from lrjax.race import contenders


class _Form(NamedTuple):
    """Source of a method's optimiser in PyTorch.

    Attributes:
      module: to import.
      name: of the class in it.
      package: what to install if the module is missing.
    """

    module: str
    name: str
    package: str


_ADAMW = _Form("torch.optim", "AdamW", "torch")
_SGD = _Form("torch.optim", "SGD", "torch")
_FORMS = {
    "sgd": _SGD,
    "momentum": _SGD,
    "adam": _ADAMW,  # whose decay is decoupled, as ours; none by default
    "adamw_cosine": _ADAMW,
    "cawr": _ADAMW,
    **{
        method: _Form("dadaptation", name, "dadaptation")
        for method, name in {
            "dadapt_adam": "DAdaptAdam",
            "dadapt_sgd": "DAdaptSGD",
            "dadapt_adagrad": "DAdaptAdaGrad",
            "dadapt_lion": "DAdaptLion",
        }.items()
    },
    "prodigy": _Form("prodigyopt", "Prodigy", "prodigyopt"),
    **{
        method: _Form("schedulefree", name, "schedulefree")
        for method, name in {
            "schedule_free_sgd": "SGDScheduleFree",
            "schedule_free_adamw": "AdamWScheduleFree",
            "schedule_free_radam": "RAdamScheduleFree",
        }.items()
    },
}
METHODS = tuple(_FORMS)
"""Names of the methods that `Job.torch` can make."""

# Hyperparameters that PyTorch's classes call otherwise.
_RENAMED = {"learning_rate": "lr", "b3": "beta3"}
# Their own warm-up counts whole steps from 1; ours does the same by the schedule, for
# any share of the horizon.
_WARMS_FROM_1 = ("schedule_free_sgd", "schedule_free_adamw")
# Their first step divides by the rate, so a warm-up must not begin at 0.
_NEEDS_A_RATE = ("dadapt_sgd",)
_CYCLES = ("T_0", "t_mult", "eta_min", "end_with_cycle", "idle_first_step")
_OF_SCHEDULE = ("schedule", "warmup_fraction", *_CYCLES)


def build(
    method: str, hyperparameters: Mapping[str, Any], params: Any, horizon: int
) -> tuple[Any, Any]:
    """Make the optimiser and the schedule of a method.

    Args:
      method: its name.
      hyperparameters: its hyperparameters, under lrjax's names.
      params: as for `torch.optim.Optimizer`.
      horizon: steps of a full run.

    Returns:
      the optimiser and a `LambdaLR`, to be stepped after every update.

    Raises:
      UsageError: if PyTorch has no such method or schedule, or a package is missing.
    """
    if method not in _FORMS:
        what = unknown("method", method, METHODS)
        if method in contenders.shipped():
            what = f"lrjax has no form of '{method}' in PyTorch (docs/methods.md names "
            what += "its authors' code)"
        raise UsageError(
            f"{what}; job.torch makes {', '.join(METHODS)}: for others use job.method "
            "and job.hyperparameters"
        )
    form = _FORMS[method]
    optimiser = _class(form, method)
    schedule = {k: hyperparameters[k] for k in _OF_SCHEDULE if k in hyperparameters}
    given = {k: v for k, v in hyperparameters.items() if k not in schedule}
    if "b1" in given:
        given["betas"] = (given.pop("b1"), given.pop("b2"))
    if given.get("momentum", 0) is None:
        given["momentum"] = 0.0
    arguments = {_RENAMED.get(name, name): value for name, value in given.items()}
    factor = factors(method, hyperparameters["learning_rate"], schedule, horizon)
    if method in _NEEDS_A_RATE and not factor(0):
        raise UsageError(f"{method}: PyTorch's divides by the rate, which begins at 0")
    try:
        made = optimiser(params, **arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{method}: {form.module}.{form.name}: {error}") from error
    scheduler = importlib.import_module("torch.optim.lr_scheduler")
    return made, scheduler.LambdaLR(made, factor)


def check_packages(methods: Iterable[str]) -> None:
    """Refuse methods whose packages are missing; those without a form need none.

    Raises:
      UsageError: names all that are missing.
    """
    missing: dict[str, list[str]] = {}
    for method in dict.fromkeys(methods):
        form = _FORMS.get(method)
        if form and not importlib.util.find_spec(form.module.partition(".")[0]):
            missing.setdefault(form.package, []).append(method)
    if missing:
        each = (f"{name} (for {', '.join(of)})" for name, of in missing.items())
        raise UsageError(
            f'job.torch needs {", ".join(each)}: pip install "lrjax[torch]"'
        )


def _class(form: _Form, method: str) -> Any:
    """The class of a method's optimiser."""
    try:
        return getattr(importlib.import_module(form.module), form.name)
    except ImportError as error:
        raise UsageError(
            f"{method} needs the package {form.package}: {error}"
        ) from error


def factors(
    method: str, peak: float, schedule: Mapping[str, Any], horizon: int
) -> Callable[[int], float]:
    """The learning rate at each step, as a factor of the peak.

    Args:
      method: its name, for errors.
      peak: the learning rate.
      schedule: `schedule` and `warmup_fraction`, or the cycles of `cawr`.
      horizon: steps of a full run.

    Raises:
      UsageError: if the schedule is none of those that methods have by default.

    Example:
      >>> falling = {"schedule": "cosine", "warmup_fraction": 0.1}
      >>> rate = factors("adamw_cosine", 0.1, falling, 100)
      >>> [round(rate(step), 3) for step in (0, 5, 10, 55)]
      [0.0, 0.5, 1.0, 0.5]
    """
    warmup = schedule.get("warmup_fraction", 0.0) * horizon
    left = horizon - warmup
    if "T_0" in schedule:
        low = schedule["eta_min"] / peak if peak else 0.0
        after = _cycles(schedule, left, low)
    elif schedule.get("schedule", "constant") == "cosine":
        after = lambda step: _wave(step / left if left else 1.0)  # noqa: E731
    elif schedule.get("schedule", "constant") == "constant":
        after = lambda step: 1.0  # noqa: E731
    else:
        raise UsageError(
            f"{method}: job.torch has the schedules constant and cosine, not "
            f"{schedule['schedule']}"
        )

    def factor(step: int) -> float:
        made = step + 1 if method in _WARMS_FROM_1 else step
        rise = min(made / warmup, 1.0) if warmup else 1.0
        return rise * after(max(step - warmup, 0.0))

    return factor


def _cycles(
    schedule: Mapping[str, Any], left: float, low: float
) -> Callable[[float], float]:
    """Cosine waves down to `low`, each `t_mult` times longer (`schedules`)."""
    if schedule["idle_first_step"]:
        raise UsageError("cawr: job.torch has no idle_first_step, which a study needs")
    first, growth = float(schedule["T_0"]), float(schedule["t_mult"])

    def series(cycles: float) -> float:
        return cycles if growth == 1 else (growth**cycles - 1) / (growth - 1)

    def number(length: float) -> float:
        """Cycles, not whole in general, that take so many first cycles' steps."""
        if growth == 1:
            return length
        return math.log1p((growth - 1) * length) / math.log(growth)

    if schedule["end_with_cycle"]:
        first = left / series(max(round(number(left / first)), 1))

    def factor(step: float) -> float:
        cycle = math.floor(number(step / first) + 1e-9)
        part = (step - first * series(cycle)) / (first * growth**cycle)
        return low + (1 - low) * _wave(part)

    return factor


def _wave(progress: float) -> float:
    """Half a cosine wave from 1 to 0."""
    return (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
