"""METHODS: every way to control the learning rate, by name.

A method is an optimiser, a schedule and defaults. Numbers are traced, so that a grid
over any of them is one compiled program; everything else (names, flags, None) decides
what is compiled. Defaults are those of the `sound` protocol: the authors' own, used as
the authors advise. `protocol.py` has what `study` changes.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from lrjax import optim
from lrjax.core import Domain, Method, Range, Space, UsageError, unknown
from lrjax.identity import is_number, plain
from lrjax.optim import schedules
from lrjax.optim.learned import pinned

Transformation: TypeAlias = optax.GradientTransformationExtraArgs

# A method's build is called with the horizon and all its hyperparameters.


def _scheduled(optimiser: Callable[..., Transformation]) -> Callable[..., Any]:
    """Lets the optimiser's rate follow one of `schedules.SCHEDULES`.

    The warm-up is the optimiser's own where it has one.
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


def _without_horizon(optimiser: Callable[..., Transformation]) -> Callable[..., Any]:
    """For optimisers that set the rate themselves, whatever the horizon."""
    return lambda horizon, **hparams: optimiser(**hparams)


def _defaults(optimiser: Callable[..., Transformation]) -> dict[str, Any]:
    parameters = inspect.signature(optimiser).parameters.values()
    told = ("horizon", "warmup_steps")  # what is no hyperparameter of a method
    per_leaf = ("weight_decay_mask", "learning_rate_factors")  # fit one model
    return {p.name: p.default for p in parameters if p.name not in told + per_leaf}


def _method(
    name: str,
    optimiser: Callable[..., Transformation],
    family: str,
    source: str,
    advice: str = "",
    space: Mapping[str, Range] | None = None,
    required: tuple[str, ...] = (),
    static: tuple[str, ...] = (),
    none: Mapping[str, float] | None = None,
    schedule: str | None = "constant",
    warmup_fraction: float = 0.0,
    needs_rate: bool | None = None,
    averages: bool = False,
    code: Callable[..., str] | None = None,
    optax: str = "",
    **changed: Any,
) -> Method:
    """A method with the optimiser's own hyperparameters and defaults, but `changed`.

    With `schedule`, 'schedule' and 'warmup_fraction' (of the horizon) are
    hyperparameters too; None is for optimisers that take no schedule. Where
    `needs_rate` is not said, all but learning-rate-free ones with a rate in their
    space do. `averages`: it is judged at an average of its iterates. `code` writes
    out the optimiser with hyperparameters, `optim.<its name>` by default.
    """
    defaults = _defaults(optimiser)
    build = _without_horizon(optimiser)
    if schedule is not None:
        defaults |= {"schedule": schedule, "warmup_fraction": warmup_fraction}
        build = _scheduled(optimiser)
    if needs_rate is None:
        needs_rate = family != _FREE and "learning_rate" in (space or {})

    def horizon_bound(hparams: Mapping[str, Any]) -> bool:
        if averages or hparams.get("averaging"):
            return False  # the average does what a decay does
        return hparams.get("schedule", "constant") not in schedules.ANYTIME

    def written(hparams: Mapping[str, Any], horizon: int) -> str:
        given = _arguments(hparams, horizon, own_warmup)
        return (code or _call(optimiser.__name__))(given)

    own_warmup = "warmup_steps" in inspect.signature(optimiser).parameters
    return Method(
        name=name,
        build=build,
        defaults=defaults | changed,
        family=family,
        source=source,
        advice=advice,
        space=Space(dict(space or {})),
        required=frozenset(required),
        static=frozenset(static),
        none=dict(none or {}),
        needs_rate=needs_rate,
        horizon_bound=horizon_bound,
        code=written,
        optax=optax,
    )


def _arguments(
    hparams: Mapping[str, Any], horizon: int, own_warmup: bool
) -> dict[str, str]:
    """Arguments of a method's optimiser, written out; as `_scheduled` has them."""
    texts = {name: _text(value) for name, value in sorted(hparams.items())}
    schedule = texts.pop("schedule", None)
    if schedule is not None:
        warmup = float(texts.pop("warmup_fraction")) * horizon
        rate = texts["learning_rate"]
        steps = 0.0 if own_warmup else warmup
        if hparams["schedule"] != "constant" or steps:
            rate = f"schedules.by_name({schedule}, {rate}, {horizon}, {steps!r})"
        texts["learning_rate"] = rate
        if own_warmup:
            texts["warmup_steps"] = repr(warmup)
    return texts


def _text(value: Any) -> str:
    """A hyperparameter as Python; infinity has no literal."""
    if isinstance(value, float) and math.isinf(value):
        return f'float("{value}")'
    return repr(value)


def _call(name: str) -> Callable[[Mapping[str, str]], str]:
    def code(arguments: Mapping[str, str]) -> str:
        given = ", ".join(f"{k}={v}" for k, v in arguments.items())
        return f"optim.{name}({given})"

    return code


def _wrapped(name: str, *outer: str) -> Callable[[Mapping[str, str]], str]:
    """Code of AdamW inside of a wrapper, which takes the arguments called `outer`."""

    def code(arguments: Mapping[str, str]) -> str:
        inner = {k: v for k, v in arguments.items() if k not in outer}
        given = "".join(f", {k}={arguments[k]}" for k in outer if k in arguments)
        return f"optim.{name}({_call('adamw')(inner)}{given})"

    return code


def _averaged_code(name: str) -> Callable[[Mapping[str, str]], str]:
    """Code of an optimiser that `_averaged` wraps."""

    def code(arguments: Mapping[str, str]) -> str:
        own = {k: v for k, v in arguments.items() if k not in ("averaging", "gamma")}
        inner = _call(name)(own)
        if arguments["averaging"] == "False":
            return inner
        return f"optim.polynomial_averaging({inner}, {arguments['gamma']})"

    return code


# The optimisers that Optax has exactly.
_OPTAX_SGD = (
    "optax.chain(optax.add_decayed_weights({weight_decay}), "
    "optax.sgd(learning_rate, momentum={momentum}, nesterov={nesterov}))"
)
_OPTAX_ADAMW, _OPTAX_NADAMW = (
    f"optax.{name}(learning_rate, b1={{b1}}, b2={{b2}}, eps={{eps}}, "
    "weight_decay={weight_decay})"
    for name in ("adamw", "nadamw")
)


class _IdleState(NamedTuple):
    started: jax.Array
    inner: Any


def _idle_first_step(inner: Transformation) -> Transformation:
    """Lets the first step change nothing, neither parameters nor state."""

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


def _cawr(
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
    *,
    horizon: Any,
) -> Transformation:
    """Adam with cosine annealing and warm restarts, perhaps after a warm-up.

    With `end_with_cycle` the first cycle is stretched so that a cycle ends where
    training does. With `idle_first_step` the first step changes nothing and update
    k takes the rate of counter k + 1, as in the study's code, whose first
    `optimizer.step()` has no gradients yet.
    """
    warmup_steps = warmup_fraction * horizon
    if end_with_cycle:
        T_0 = schedules.fit_first_cycle(T_0, t_mult, horizon - warmup_steps)
    rate = schedules.cosine_warm_restarts(learning_rate, T_0, t_mult, eta_min)
    rate = schedules.warmup(rate, warmup_steps)
    adam = functools.partial(
        optim.adamw, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay
    )
    if idle_first_step:
        return _idle_first_step(adam(lambda step: rate(step + 2)))
    return adam(rate)


def _cawr_method(
    name: str, advice: str, required: tuple[str, ...] = (), **changed: Any
) -> Method:
    return Method(
        name=name,
        build=lambda horizon, **hparams: _cawr(horizon=horizon, **hparams),
        defaults=_defaults(_cawr) | changed,
        family="schedule",
        source="Loshchilov and Hutter 2017 (SGDR); PyTorch",
        advice=advice,
        space=Space(
            {
                "learning_rate": Range(1e-5, 1.0),
                "T_0": Range(1, 50, integer=True),
                "t_mult": Range(1, 5, log=False, integer=True),
                "eta_min": Range(1e-8, 5e-3),
            }
        ),
        required=frozenset(required),
        needs_rate=True,
        horizon_bound=lambda hparams: True,
        code=_cawr_code,
    )


def _cawr_code(hparams: Mapping[str, Any], horizon: int) -> str:
    if hparams["idle_first_step"]:
        return ""  # the study's, which is no method to train with
    T_0, t_mult = repr(hparams["T_0"]), repr(hparams["t_mult"])
    if hparams["end_with_cycle"]:
        T_0 = f"schedules.fit_first_cycle({T_0}, {t_mult}, {horizon})"
    peak, least = hparams["learning_rate"], hparams["eta_min"]
    rate = f"schedules.cosine_warm_restarts({peak!r}, {T_0}, {t_mult}, {least!r})"
    adam = {k: _text(hparams[k]) for k in ("b1", "b2", "eps", "weight_decay")}
    return _call("adamw")({"learning_rate": rate} | adam)


def _averaged(optimiser: Callable[..., Transformation]) -> Callable[..., Any]:
    """Adds polynomial averaging, which DoG's authors call crucial."""

    @functools.wraps(optimiser)
    def build(*args: Any, averaging: bool, gamma: Any, **hparams: Any):
        inner = optimiser(*args, **hparams)
        return optim.polynomial_averaging(inner, gamma) if averaging else inner

    signature = inspect.signature(optimiser)
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in (("averaging", True), ("gamma", 8.0))
    ]
    parameters = [*signature.parameters.values(), *extra]
    build.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore
    return build


def _mechanic_adamw(
    learning_rate: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    weight_decay: Any = 0.0,
    s_decay: Any = 0.01,
    s_init: Any = 1e-8,
    eps: Any = 1e-8,
) -> Transformation:
    """Mechanic around AdamW."""
    base = optim.adamw(learning_rate, b1, b2, weight_decay=weight_decay)
    return optim.mechanic(base, s_decay=s_decay, s_init=s_init, eps=eps)


def _plateau_adamw(
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
    """AdamW whose rate falls when the training loss, averaged, has stopped to fall.

    The batches' losses are averaged to `observations` numbers over the horizon.
    """
    return optim.reduce_on_plateau(
        optim.adamw(learning_rate, b1, b2, weight_decay=weight_decay),
        factor=factor,
        patience=patience,
        rtol=rtol,
        cooldown=cooldown,
        min_scale=min_scale,
        accumulation_size=jnp.maximum(horizon / observations, 1),
    )


def _greedy_adamw(
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
    """GreedyLR around AdamW."""
    return optim.greedy_lr(
        optim.adamw(1.0, b1, b2, weight_decay=weight_decay),
        learning_rate,
        factor=factor,
        patience=patience,
        min_lr=min_lr,
        max_lr=max_lr,
        window_size=window_size,
    )


def _plateau_code(hparams: Mapping[str, Any], horizon: int) -> str:
    texts = {name: _text(value) for name, value in hparams.items()}
    per = max(horizon / hparams["observations"], 1)
    del texts["observations"]
    texts["accumulation_size"] = repr(per)
    outer = ("factor", "patience", "rtol", "cooldown", "min_scale")
    return _wrapped("reduce_on_plateau", *outer, "accumulation_size")(texts)


def _greedy_code(given: Mapping[str, str]) -> str:
    texts = dict(given)
    rate = texts.pop("learning_rate")
    base = {"learning_rate": "1.0"}
    base |= {k: texts.pop(k) for k in ("b1", "b2", "weight_decay")}
    outer = "".join(f", {k}={v}" for k, v in texts.items())
    return f"optim.greedy_lr({_call('adamw')(base)}, {rate}{outer})"


def _learned(horizon: Any, policy: Any, **hparams: Any) -> Transformation:
    """AdamW whose rate a learned policy sets; a bad file is the user's error."""
    try:
        return optim.learned(horizon, policy=policy, **hparams)
    except ValueError as error:
        raise UsageError(str(error)) from None


def pinned_policy(policy: str) -> str:
    """As `optim.learned.pinned`; a bad file is the user's error.

    Raises:
      UsageError: if it cannot be read, or holds anything else.
    """
    try:
        return pinned(policy)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _learned_code(hparams: Mapping[str, Any], horizon: int) -> str:
    given = "".join(f", {name}={value!r}" for name, value in hparams.items())
    return f"optim.learned({horizon}{given})"


_FIXED, _SCHEDULE, _FREE, _STATISTICS = (
    "fixed",
    "schedule",
    "learning-rate-free",
    "statistics",
)
_ADAM_RATE = {"learning_rate": Range(1e-5, 1.0)}
_SGD_RATE = {"learning_rate": Range(1e-4, 10.0)}
_D0 = Range(1e-8, 1e-2)
_FACTOR = Range(0.1, 10.0)  # of a rate that the method finds by itself
_DADAPT = "Defazio and Mishchenko 2023; dadaptation 3.2"
_DADAPT_ADVICE = "Use the schedule that you would use with the plain optimiser."
_PRODIGY_ADVICE = (
    "Use no schedule, or cosine without restarts; with a warm-up set safeguard_warmup. "
    "If d stays at d0, raise d0."
)
_DOG = "Ivgi, Hinder and Carmon 2023; formll/dog 1.0.3"
_DOG_ADVICE = (
    "No schedule; keep the averaging. With batch normalisation set reps_rel to 1e-4; "
    "raise it if the distance does not grow."
)
_FREE_ADVICE = "No schedule: the average replaces it. Warm up over 5 %, tune the rate."
_SCHEDULE_FREE = "Defazio et al. 2024; schedulefree 1.4.1"
_HYPERGRADIENT = "Baydin et al. 2018; gbaydin/hypergradient-descent"
_HYPERGRADIENT_ADVICE = "The rate of the rate wants tuning on a logarithmic scale."
_MOMO = "Schaipp et al. 2024; fabian-sp/MoMo"
_MOMO_ADVICE = "A larger rate than usual is safe: it is a cap. Loss above lower_bound."

_DECAY = Domain(0.0, 1.0)
# Counts are exact in float32 up to here.
_COUNT, _FROM_1 = (Domain(least, 2.0**24, whole=True) for least in (0.0, 1.0))
# What a hyperparameter may be, whichever method has it; others: 0 or more.
_DOMAINS = {
    **dict.fromkeys(("b1", "b2", "b3", "momentum", "beta"), _DECAY),
    "warmup_fraction": Domain(0.0, 1.0, closed=True),
    "growth_rate": Domain(1.0, math.inf, closed=True),
    **dict.fromkeys(("T_0", "t_mult", "observations", "actions"), _FROM_1),
    **dict.fromkeys(("patience", "cooldown"), _COUNT),
    "window_size": Domain(1.0, 1e5, whole=True),  # numbers of state
    "max_backtracks": Domain(1.0, 1e4, whole=True),  # forward passes
}


def _registered(method: Method) -> Method:
    """The method with the domains of its hyperparameters."""
    found = {n: _DOMAINS[n] for n in method.defaults if n in _DOMAINS}
    return dataclasses.replace(method, domains=found)


METHODS: dict[str, Method] = {
    method.name: _registered(method)
    for method in (
        _method(
            "sgd",
            optim.sgd,
            _FIXED,
            "Robbins and Monro 1951; PyTorch",
            space=_SGD_RATE,
            none={"momentum": 0.0},  # no state for it, but the same steps
            optax=_OPTAX_SGD,
            learning_rate=0.1,
        ),
        _method(
            "momentum",
            optim.sgd,
            _FIXED,
            "Polyak 1964; PyTorch",
            space=_ADAM_RATE,
            optax=_OPTAX_SGD,
            learning_rate=0.1,
            momentum=0.9,
        ),
        _method(
            "adam",
            optim.adamw,
            _FIXED,
            "Kingma and Ba 2015; PyTorch",
            space=_ADAM_RATE,
            optax=_OPTAX_ADAMW,
            weight_decay=0.0,
        ),
        _method(
            "smac",
            optim.adamw,
            _FIXED,
            "the study's tuned rates for Adam",
            "Only where the study published a tuned rate, under `study`.",
            space=_ADAM_RATE,
            required=("learning_rate",),
            optax=_OPTAX_ADAMW,
            learning_rate=None,
            weight_decay=0.0,
        ),
        _method(
            "adamw_cosine",
            optim.adamw,
            _SCHEDULE,
            "Loshchilov and Hutter 2019; PyTorch",
            "Tune the rate: it is the peak after a warm-up of 5 %.",
            space=_ADAM_RATE,
            optax=_OPTAX_ADAMW,
            schedule="cosine",
            warmup_fraction=0.05,
        ),
        _method(
            "nadamw_cosine",
            optim.nadamw,
            _SCHEDULE,
            "Dozat 2016; Dahl et al. 2023 (AlgoPerf's baseline)",
            "Tune the rate: it is the peak after a warm-up of 5 %.",
            space=_ADAM_RATE,
            optax=_OPTAX_NADAMW,
            schedule="cosine",
            warmup_fraction=0.05,
            weight_decay=1e-2,
        ),
        _cawr_method("cawr", "Let a cycle end where training ends."),
        _cawr_method(
            "cawr_tuned",
            "Only where the study published tuned values, under `study`.",
            ("learning_rate", "T_0", "t_mult", "eta_min"),
            learning_rate=None,
            T_0=None,
            t_mult=None,
            eta_min=None,
        ),
        _method(
            "dadapt_adam",
            optim.dadapt_adam,
            _FREE,
            _DADAPT,
            _DADAPT_ADVICE,
            space={"d0": _D0, "learning_rate": _FACTOR},
            schedule="cosine",
            decouple=True,
        ),
        _method(
            "dadapt_sgd",
            optim.dadapt_sgd,
            _FREE,
            _DADAPT,
            _DADAPT_ADVICE,
            space={"d0": _D0, "learning_rate": Range(1e-3, 10.0)},
            schedule="cosine",
        ),
        _method(
            "dadapt_adagrad",
            optim.dadapt_adagrad,
            _FREE,
            _DADAPT,
            _DADAPT_ADVICE,
            space={"d0": _D0, "learning_rate": _FACTOR},
            schedule="cosine",
        ),
        _method(
            "dadapt_lion",
            optim.dadapt_lion,
            _FREE,
            _DADAPT,
            _DADAPT_ADVICE + " Experimental, say its authors. On data that can be "
            "separated the default rate of 1 lets the parameters grow until they "
            "diverge: try 0.1.",
            space={"d0": _D0, "learning_rate": _FACTOR},
            schedule="cosine",
        ),
        _method(
            "prodigy",
            optim.prodigy,
            _FREE,
            "Mishchenko and Defazio 2024; prodigyopt 1.1.2",
            _PRODIGY_ADVICE,
            space={"d0": _D0, "d_coef": _FACTOR},
            schedule="cosine",
        ),
        _method(
            "cocob",
            optim.cocob,
            _FREE,
            "Orabona and Tommasi 2017; parameterfree 0.0.1",
            "No schedule; alpha 100 is meant for all problems.",
            space={"alpha": Range(10.0, 1000.0)},
        ),
        _method(
            "dog",
            _averaged(optim.dog),
            _FREE,
            _DOG,
            _DOG_ADVICE,
            space={"reps_rel": Range(1e-8, 1e-2)},
            code=_averaged_code("dog"),
        ),
        _method(
            "ldog",
            _averaged(optim.ldog),
            _FREE,
            _DOG,
            _DOG_ADVICE,
            space={"reps_rel": Range(1e-8, 1e-2)},
            code=_averaged_code("ldog"),
        ),
        _method(
            "dowg",
            optim.dowg,
            _FREE,
            "Khaled, Mishchenko and Jin 2023; rka97/dowg",
            "No schedule.",
            space={"eps": Range(1e-8, 1e-2)},
        ),
        _method(
            "cdowg",
            optim.cdowg,
            _FREE,
            "Khaled, Mishchenko and Jin 2023; rka97/dowg",
            "No schedule.",
            space={"eps": Range(1e-10, 1e-4)},
        ),
        _method(
            "schedule_free_sgd",
            optim.schedule_free_sgd,
            _FREE,
            _SCHEDULE_FREE,
            _FREE_ADVICE,
            space={"learning_rate": Range(1e-2, 100.0)},
            averages=True,
            needs_rate=True,
            warmup_fraction=0.05,
        ),
        _method(
            "schedule_free_adamw",
            optim.schedule_free_adamw,
            _FREE,
            _SCHEDULE_FREE,
            _FREE_ADVICE + " 1 to 10 times AdamW's rate.",
            space={"learning_rate": Range(1e-4, 1.0)},
            averages=True,
            needs_rate=True,
            warmup_fraction=0.05,
        ),
        _method(
            "schedule_free_radam",
            optim.schedule_free_radam,
            _FREE,
            _SCHEDULE_FREE,
            "No schedule and no warm-up: RAdam has its own. Tune the rate.",
            space={"learning_rate": Range(1e-4, 1.0)},
            averages=True,
            needs_rate=True,
        ),
        _method(
            "schedule_free_prodigy",
            optim.schedule_free_prodigy,
            _FREE,
            "schedulefree 1.4.1's wrapper around prodigyopt 1.1.2",
            "No schedule: the average replaces it.",
            space={"d0": _D0, "d_coef": _FACTOR},
            averages=True,
        ),
        _method(
            "hypergradient_sgd",
            optim.hypergradient_sgd,
            _STATISTICS,
            _HYPERGRADIENT,
            _HYPERGRADIENT_ADVICE,
            space={
                "learning_rate": Range(1e-4, 1.0),
                "hypergrad_lr": Range(1e-8, 1e-1),
            },
            schedule=None,
            learning_rate=0.1,
        ),
        _method(
            "hypergradient_adam",
            optim.hypergradient_adam,
            _STATISTICS,
            _HYPERGRADIENT,
            _HYPERGRADIENT_ADVICE,
            space={
                "learning_rate": Range(1e-5, 1e-1),
                "hypergrad_lr": Range(1e-10, 1e-2),
            },
            schedule=None,
        ),
        _method(
            "momo",
            optim.momo,
            _STATISTICS,
            _MOMO,
            _MOMO_ADVICE,
            space=_SGD_RATE,
        ),
        _method(
            "momo_adam",
            optim.momo_adam,
            _STATISTICS,
            _MOMO,
            _MOMO_ADVICE,
            space={"learning_rate": Range(1e-4, 10.0)},
        ),
        Method(
            name="reduce_on_plateau",
            build=_plateau_adamw,
            defaults=_defaults(_plateau_adamw),
            family=_STATISTICS,
            source="PyTorch's ReduceLROnPlateau",
            advice="Start from the largest rate that does not diverge.",
            space=Space(_ADAM_RATE | {"factor": Range(0.05, 0.8)}),
            needs_rate=True,
            code=_plateau_code,
        ),
        _method(
            "greedy_lr",
            _greedy_adamw,
            _STATISTICS,
            "Subramanian et al. 2025; GreedyLR of huggingface/transformers",
            "Lower the factor for a faster response, raise window_size with the noise.",
            space=_ADAM_RATE | {"factor": Range(0.5, 0.99, log=False)},
            static=("window_size",),
            schedule=None,
            code=_greedy_code,
        ),
        Method(
            name="learned",
            build=_learned,
            defaults=_defaults(optim.learned),
            family=_STATISTICS,
            source="our own, by the evolution strategies of Salimans et al. 2017",
            advice="Nothing to set; `learning_rate` scales what the network chooses.",
            space=Space({"learning_rate": Range(1e-3, 1e-1)}),
            code=_learned_code,
        ),
        _method(
            "polyak_sgd",
            optim.polyak_sgd,
            _STATISTICS,
            "Loizou et al. 2021 (SPS_max)",
            "The rate is a cap. For models that can fit their data, so that a loss "
            "comes near lower_bound.",
            space={"learning_rate": Range(1e-2, 100.0), "c": Range(0.1, 1.0)},
            needs_rate=False,  # a cap
        ),
        _method(
            "armijo_sgd",
            optim.armijo_sgd,
            _STATISTICS,
            "Vaswani et al. 2019; IssamLaradji/sls",
            "For models that can fit their data. Some forward passes more a step.",
            space={"c": Range(1e-3, 0.5), "learning_rate": Range(1.0, 100.0)},
            needs_rate=False,  # a cap
        ),
        _method(
            "mechanic",
            _mechanic_adamw,
            _FREE,
            "Cutkosky, Defazio and Mehta 2023; optimizedlearning/mechanic (PyTorch)",
            "Give it the schedule of the base optimiser, at a peak of 1.",
            space={"s_init": Range(1e-10, 1e-4), "s_decay": Range(1e-4, 1.0)},
            schedule="cosine",
            warmup_fraction=0.05,
            code=_wrapped("mechanic", "s_decay", "s_init", "eps"),
        ),
        _method(
            "storm_plus",
            optim.storm_plus,
            _FREE,
            "Levy, Kavis and Cevher 2021",
            "Two gradients a step.",
            space={"c": Range(1e-2, 100.0)},
        ),
    )
}


def find(name: str) -> Method:
    """The method of that name.

    Raises:
      UsageError: if there is none; names the nearest.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def split(
    method: Method, hparams: Mapping[str, Any]
) -> tuple[tuple[tuple[str, Any], ...], dict[str, float]]:
    """Parts hyperparameters into what is compiled in and what is traced.

    Returns:
      sorted (name, value) pairs of the static ones, and a dictionary of the traced.
    """
    static, traced = [], {}
    for name, value in sorted(hparams.items()):
        value = plain(value)
        if is_number(value) and name not in method.static:
            traced[name] = float(value)
        else:
            static.append((name, value))
    return tuple(static), traced


def state_size(method: Method, params: Any) -> int:
    """Numbers that the optimiser keeps for parameters of the given shapes."""
    defaults, needed = dict(method.defaults), dict.fromkeys(method.required, 1.0)

    def init(params):
        return method.build(1.0, **(defaults | needed)).init(params)

    shapes = jax.tree.leaves(jax.eval_shape(init, params))
    return sum(math.prod(leaf.shape) for leaf in shapes)


def cooled(method: Method) -> Method:
    """The method with two more traced hyperparameters, which let it come to rest.

    `cooldown_start` and `cooldown_steps` are those of `optim.cooldown`.
    """

    def build(horizon: Any, cooldown_start: Any, cooldown_steps: Any, **hparams: Any):
        inner = optax.with_extra_args_support(method.build(horizon, **hparams))
        return optim.cooldown(inner, cooldown_start, cooldown_steps)

    extra = {"cooldown_start": math.inf, "cooldown_steps": 1.0}
    return dataclasses.replace(
        method, build=build, defaults={**method.defaults, **extra}
    )
