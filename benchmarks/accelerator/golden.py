"""Trajectories of the authors' own code in `tests/golden`.

They are followed in float32, which all devices have; and in float64, to the last
digits, where the device has it (TPUs emulate it).
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.accelerator import compare
from benchmarks.accelerator.core import (
    CPU,
    DEVICE,
    NotRunError,
    Numbers,
    Part,
    Row,
    check,
    under,
)
from lrjax import machine, optim

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "golden"))
import problems

# Float32 follows the float64 trajectories of most methods to this; the rest is what
# `compare` allows for.
FLOOR = 1e-4
EXACT = 1e-9  # of float64, as tests/optim/test_parity.py has it on CPUs


def parts(miniature: bool) -> list[Part]:
    """A part for each problem, and one for parameter groups; an item is a method."""
    made = []
    for problem in problems.PROBLEMS[: 1 if miniature else None]:
        items = [f"{method}/{problem}" for method in problems.FILES]
        made.append(_part(f"golden-{problem}", items[:1] if miniature else items))
    if not miniature:
        items = [f"{method}/{problems.GROUPS}" for method in problems.GROUPED_METHODS]
        made.append(_part("golden-groups", items))
    in_float64 = functools.partial(compute, precision="float64")
    return made + [
        Part(part.name.replace("golden", "golden64"), part.items, in_float64, exactly)
        for part in made
    ]


def _part(name: str, items: list[str]) -> Part:
    return Part(name, tuple(items), compute, judge, (DEVICE, CPU))


def cases(item: str) -> Iterator[problems.Case]:
    """The golden runs of an item, 'METHOD/PROBLEM' or 'METHOD/groups'."""
    method, _, problem = item.partition("/")
    if problem == problems.GROUPS:
        yield from problems.cases(method, problems.GROUPS)
        return
    for case in problems.cases(method):
        if case.problem.name == problem:
            yield case


def compute(
    item: str, folder: Path, precision: str = "float32"
) -> dict[str, np.ndarray]:
    """Our values at the checkpoints of all cases of an item, and the golden ones.

    Raises:
      NotRunError: for float64 on a TPU.
    """
    del folder
    if precision == "float64" and machine.kind() == "tpu":
        raise NotRunError("needs float64, which TPUs emulate")
    found = list(cases(item))
    options = {}
    if machine.kind() == "cpu":
        options = {"xla_backend_optimization_level": 0}  # compiles in a fifth
    with contextlib.ExitStack() as settings:
        settings.enter_context(jax.default_matmul_precision("highest"))
        settings.enter_context(jax.enable_x64(precision == "float64"))

        def everything(inits: list[Any]) -> list[Any]:
            return [_path(case, init) for case, init in zip(found, inits, strict=True)]

        inits = [
            {k: jnp.asarray(v, precision) for k, v in case.problem.init.items()}
            for case in found
        ]
        paths = jax.jit(everything, compiler_options=options)(inits)
        paths = jax.tree.map(np.asarray, paths)
    numbers = {}
    for case, (params, points) in zip(found, paths, strict=True):
        kinds = (
            ("params", params, case.checkpoints),
            (
                "eval",
                points,
                case.eval_checkpoints,
            ),
        )
        for kind, ours, checkpoints in kinds:
            for name in case.problem.init if checkpoints else ():
                at = np.asarray(list(checkpoints)) - 1
                key = f"{case.id}/{kind}/{name}"
                numbers[f"found/{key}"] = ours[name][at]
                numbers[f"golden/{key}"] = np.stack(
                    [golden[name] for golden in checkpoints.values()]
                )
    return numbers


def _path(case: problems.Case, init: Mapping[str, Any]) -> tuple[Any, Any]:
    """Parameters and points to evaluate after each update of a case."""
    tx = optax.with_extra_args_support(case.build())

    def update(carry: Any, step: jax.Array) -> tuple[Any, Any]:
        params, state = carry
        value, grads = jax.value_and_grad(case.loss)(params, step)
        with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
            updates, state = tx.update(
                grads,
                state,
                params,
                value=value,
                grad_fn=lambda params: jax.grad(case.loss)(params, step),
            )
        params = optax.apply_updates(params, updates)
        return (params, state), (params, optim.eval_params(state, params))

    return jax.lax.scan(update, (init, tx.init(init)), jnp.arange(problems.STEPS))[1]


def judge(item: str, sides: Mapping[str, Numbers]) -> list[Row]:
    """Compare each case with the golden trajectory and with the CPU's."""
    rows = []
    names = {key.split("/")[1] for key in sides[DEVICE]}
    for case in sorted(names):
        found, own = (under(sides[side], f"found/{case}") for side in (DEVICE, CPU))
        golden = under(sides[DEVICE], f"golden/{case}")
        may = compare.allowed(compare.largest(own, golden), FLOOR)
        rows.append(check(f"{case}, golden", compare.largest(found, golden), may))
        rows.append(check(f"{case}, CPU", compare.largest(found, own), may))
    return rows


def exactly(item: str, sides: Mapping[str, Numbers]) -> list[Row]:
    """Compare each case in float64 with the golden trajectory."""
    numbers = sides[DEVICE]
    rows = []
    for case in sorted({key.split("/")[1] for key in numbers}):
        far = compare.largest(
            under(numbers, f"found/{case}"), under(numbers, f"golden/{case}")
        )
        rows.append(check(f"{case}, float64", far, EXACT))
    return rows
