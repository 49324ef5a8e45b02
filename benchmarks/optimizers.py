r"""What one update of each method costs, against Optax's AdamW.

  python benchmarks/optimizers.py [--quick] [--json=FILE] [--methods=a,b] [--passes]

An update is `tx.update` and `optax.apply_updates` in one compiled program that gets the
parameters and the state to overwrite. The gradients stay the same; gradient, loss and
loss function at other points, for methods that ask for them, are as cheap as can be.
Hyperparameters have their defaults, as Python numbers. The tree has 25 million float32
parameters in 50 leaves, with --quick one million, which fit into a cache and say little
about time.

Programs take turns, each update of a method beside one of AdamW, so that a busy machine
slows both: a ratio is the median over the turns of the ratio within a turn, with the
first and third quartile. The time of all cores together, also over AdamW's, suffers
less from a busy machine (and says nothing of a GPU). "adamw again" is AdamW against
itself: noise.

Bytes are those that XLA counts over the compiled program. The least possible is every
array once: gradients, parameters and state read, parameters and state written, without
what is returned as it was. A step size that follows from a sum over all entries takes
passes: what the sum is of is read, then, once it is known, what the step is made of is
read again. "In passes" counts this, with every array once in a pass. "Over AdamW's"
divides bytes over least bytes by the same quotient of AdamW, so that what XLA's code
costs every method drops out. A second gradient, or a loss at other points, counts as
the method's own.

With --passes instead: how much longer an update takes without each of the functions of
`lrjax.optim.passes`, for every method that calls it. Both programs take turns as above.
Where none takes longer, the function can go.

Takes about five minutes on two cores, with --quick one, and up to 3 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import population

from lrjax.core import Method, UsageError
from lrjax.methods import METHODS, find
from lrjax.optim import base, passes

LAYERS = 25  # each a square matrix and a vector
WIDTHS = {"full": 1000, "quick": 200}
TURNS = {"full": 15, "quick": 7}
HORIZON = 1000
REFERENCE = "adamw"
# What Optax has of the same, by our names.
COUNTERPARTS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "dadapt_adam": optax.contrib.dadapt_adamw,
    "prodigy": optax.contrib.prodigy,
    "cocob": optax.contrib.cocob,
}
TIME_AIM = 2.0  # of AdamW's time
BYTES_AIM = 1.3  # of AdamW's own excess over the least bytes
NOISE = 1.05  # ratio of times up to which programs are taken for equally fast
SPEEDUP_AIM = 2.0  # over Optax's D-Adaptation and COCOB


def make_tree(width: int, scale: float, seed: int) -> list[dict[str, jax.Array]]:
    """Normal numbers in layers of a matrix and a vector."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(scale * rng.standard_normal(shape, np.float32))

    return [{"w": normal(width, width), "b": normal(width)} for _ in range(LAYERS)]


def build(method: Method) -> optax.GradientTransformation:
    """A method with its defaults, and 1 for what has none."""
    needed = dict.fromkeys(method.required, 1.0)
    return method.build(HORIZON, **(dict(method.defaults) | needed))


def make_step(transformation: optax.GradientTransformation) -> Callable[..., Any]:
    """`step(params, state, grads, value) -> (params, state)`."""
    transformation = optax.with_extra_args_support(transformation)

    def step(params, state, grads, value):
        updates, state = transformation.update(
            grads,
            state,
            params,
            value=value,
            # The gradients are those of this function, which falls along them as any
            # line search wants.
            value_fn=lambda at: optax.tree.vdot(grads, at),
            grad_fn=lambda at: jax.tree.map(lambda g, p: g + 1e-3 * p, grads, at),
        )
        return optax.apply_updates(params, updates), state

    return step


def least_bytes(step: Callable[..., Any], arguments: Sequence[Any]) -> tuple[int, int]:
    """Bytes of arrays that go in and are used, and that come out and are new.

    Returns:
      with every array once, and with every array once in each pass that needs it.
    """
    jaxpr = jax.make_jaxpr(step)(*arguments).jaxpr
    smallest = min(leaf.size for leaf in jax.tree.leaves(arguments[0]))

    def large(var):
        return var.aval.size >= smallest

    def variables(atoms):
        return [atom for atom in atoms if not isinstance(atom, jax.extend.core.Literal)]

    def size(vars):
        return sum(var.aval.size * var.aval.dtype.itemsize for var in vars)

    inputs = set(jaxpr.invars)
    new = [var for var in variables(jaxpr.outvars) if var not in inputs]
    used = {var for equation in jaxpr.eqns for var in variables(equation.invars)}
    once = size([var for var in jaxpr.invars if var in used]) + size(new)

    stored = inputs.union(new)
    made_by = {var: equation for equation in jaxpr.eqns for var in equation.outvars}
    # How many sums over entries must be known before a value is.
    level = dict.fromkeys(inputs | set(jaxpr.constvars), 0)

    def sources(equation):
        """Stored arrays that an equation's arrays are computed from."""
        for var in variables(equation.invars):
            if var in stored:
                yield var
            elif large(var) and var in made_by:
                yield from sources(made_by[var])

    reads = set()
    for equation in jaxpr.eqns:
        operands = variables(equation.invars)
        if equation.params.get("name") == passes.hold.__name__:
            operands = operands[1:]  # the token orders, it is no number to wait for
        now = max((level[var] for var in operands), default=0)
        arrays = any(large(var) for var in operands)
        scalar = not any(var.aval.ndim for var in equation.outvars)
        sums = arrays and scalar
        if sums and equation.primitive.name == "cond":
            sums, arrays = False, False  # a branch of the first step alone
        level |= dict.fromkeys(equation.outvars, now + sums)
        if arrays and (sums or any(var in stored for var in equation.outvars)):
            reads |= {(var, now) for var in sources(equation) if level[var] < now}
            reads |= {(var, now) for var in sources(equation) if var in inputs}
    return once, size([var for var, _ in reads]) + size(new)


def nbytes(tree: Any) -> int:
    """Bytes of all arrays, or shapes, of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class Updates:
    """Updates of one program, one after the other.

    Attributes:
      facts: what is known without running it: sizes in multiples of the parameters
        and `excess`, the bytes that XLA counts over the least possible, also in passes.
    """

    def __init__(self, transformation: Any, width: int, grads: Any) -> None:
        step = make_step(transformation)
        self._params = make_tree(width, 0.02, seed=0)
        # Optax's states can share buffers with the parameters: all get their own.
        state = transformation.init(self._params)
        self._state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
        self._rest = grads, jnp.asarray(1.0)
        arguments = self._params, self._state, *self._rest
        self._compiled = (
            jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
        )
        size = nbytes(self._params)
        least, in_passes = least_bytes(step, arguments)
        accessed = self._compiled.cost_analysis()["bytes accessed"]
        memory = self._compiled.memory_analysis()
        self.facts = {
            "state": nbytes(self._state) / size,
            "least_bytes": least / size,
            "bytes": accessed / size,
            "least_in_passes": in_passes / size,
            "excess": accessed / least,
            "excess_in_passes": accessed / in_passes,
            "temporary": getattr(memory, "temp_size_in_bytes", 0) / size,
        }

    def __call__(self) -> None:
        """Make an update."""
        updated = self._compiled(self._params, self._state, *self._rest)
        self._params, self._state = jax.block_until_ready(updated)


def quartiles(values: np.ndarray) -> dict[str, float]:
    """Median, first and third quartile."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(median), "low": float(low), "high": float(high)}


def compare(
    programs: Mapping[str, Updates], turns: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Time programs in turn, the reference first, and relate all to it."""
    times = population.take_turns(dict(programs), dict.fromkeys(programs, 1e3), turns)
    first, *others = programs
    return {
        name: {
            "milliseconds": quartiles(times[name].wall),
            "time": quartiles(times[name].wall / times[first].wall),
            "cpu_time": quartiles(times[name].cpu / times[first].cpu),
        }
        for name in others
    }


def measure(
    methods: Sequence[Method], width: int, turns: int
) -> Iterator[dict[str, Any]]:
    """A row for AdamW against itself, for every method and for what Optax has."""
    grads = make_tree(width, 1e-3, seed=1)
    reference = Updates(optax.adamw(1e-3), width, grads)

    def row(name: str, program: Updates, timed: Mapping[str, Any]) -> dict[str, Any]:
        over = {
            f"{key}_over_adamw": program.facts[key] / reference.facts[key]
            for key in ("excess", "excess_in_passes")
        }
        return {"name": name, **timed, **program.facts, **over}

    again = Updates(optax.adamw(1e-3), width, grads)
    timed = compare({REFERENCE: reference, "again": again}, turns)
    yield row(f"{REFERENCE} again", again, timed["again"])
    del again
    for method in methods:
        programs = {
            REFERENCE: reference,
            method.name: Updates(build(method), width, grads),
        }
        if method.name in COUNTERPARTS:
            programs["optax"] = Updates(COUNTERPARTS[method.name](), width, grads)
        timed = compare(programs, turns)
        found = row(method.name, programs[method.name], timed[method.name])
        if "optax" in programs:
            yield row(f"Optax's {method.name}", programs["optax"], timed["optax"])
            ours, theirs = timed[method.name]["time"], timed["optax"]["time"]
            found["speedup"] = theirs["median"] / ours["median"]
        del programs
        yield found


def separate_sums(
    fn: Callable[..., tuple[jax.Array, ...]], outputs: int, dtype: Any, *trees: Any
) -> tuple[jax.Array, ...]:
    """`passes.sums` in the plain way: each sum by itself."""
    return tuple(
        base.sum_leaves(lambda *leaves, i=i: fn(*leaves)[i], dtype, *trees)
        for i in range(outputs)
    )


# Function of `passes` -> what a method would do without it.
PLAIN = {"sums": separate_sums, "after": lambda token, *values: list(values)}


def calls(name: str, method: Method) -> bool:
    """Whether an update of a method calls a function of `passes`."""
    params = make_tree(2, 1.0, seed=0)
    transformation = build(method)
    with mock.patch.object(passes, name, wraps=getattr(passes, name)) as called:
        state = transformation.init(params)
        step = make_step(transformation)
        jax.eval_shape(step, params, state, params, jnp.asarray(1.0))
    return called.called


def measure_passes(
    methods: Sequence[Method], width: int, turns: int
) -> Iterator[dict[str, Any]]:
    """A row for every method and function of `passes` that it calls."""
    grads = make_tree(width, 1e-3, seed=1)
    for name, plain in PLAIN.items():
        for method in methods:
            if not calls(name, method):
                continue
            programs = {"with": Updates(build(method), width, grads)}
            with mock.patch.object(passes, name, plain):
                programs["without"] = Updates(build(method), width, grads)
            timed = compare(programs, turns)["without"]
            facts = {key: program.facts for key, program in programs.items()}
            yield {"function": name, "name": method.name, **timed, **facts}


def show_passes(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `measure_passes` as Markdown, and a line for each function."""
    head = [
        *("function", "method", "time without it", "quartiles", "all cores' time"),
        *("bytes with", "bytes without", "temporary with", "temporary without"),
    ]
    lines = [
        [
            row["function"],
            row["name"],
            f"{row['time']['median']:.2f}",
            f"{row['time']['low']:.2f} to {row['time']['high']:.2f}",
            f"{row['cpu_time']['median']:.2f}",
            *(f"{row[key]['bytes']:.2f}" for key in ("with", "without")),
            *(f"{row[key]['temporary']:.1f}" for key in ("with", "without")),
        ]
        for row in rows
    ]
    said = [population._table(head, lines), ""]
    for name in PLAIN:
        of_name = [row for row in rows if row["function"] == name]
        # Longer beyond noise: the first quartile, too, is above that of equal programs.
        gains = [row["name"] for row in of_name if row["time"]["low"] > NOISE]
        verdict = f"pays for {', '.join(gains)}" if gains else "pays for no method"
        said.append(f"`passes.{name}`, of {len(of_name)} methods, {verdict}.")
    return "\n".join(said)


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}, {device.device_kind}",
        "optax": optax.__version__,
        **population.machine(with_torch=False),
    }


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows as Markdown."""
    head = [
        "method",
        "time / AdamW",
        "quartiles",
        "all cores' time",
        "ms",
        "state",
        "bytes",
        "least",
        "over AdamW's",
        "least in passes",
        "over AdamW's",
        "temporary",
    ]
    lines = [
        [
            row["name"],
            f"{row['time']['median']:.2f}",
            f"{row['time']['low']:.2f} to {row['time']['high']:.2f}",
            f"{row['cpu_time']['median']:.2f}",
            f"{row['milliseconds']['median']:.3g}",
            *(
                f"{row[key]:.1f}"
                if key in ("state", "temporary")
                else f"{row[key]:.2f}"
                for key in (
                    "state",
                    "bytes",
                    "least_bytes",
                    "excess_over_adamw",
                    "least_in_passes",
                    "excess_in_passes_over_adamw",
                    "temporary",
                )
            ),
        ]
        for row in rows
    ]
    return population._table(head, lines)


def verdict(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What misses an aim, and how much faster than Optax's we are."""
    ours = [row for row in rows if row["name"] in METHODS]

    def names(key: Callable[[Mapping[str, Any]], float], aim: float) -> str:
        above = [
            f"{row['name']} {key(row):.2f}" for row in ours if round(key(row), 2) > aim
        ]
        return ", ".join(above) or "none"

    slow = names(lambda row: row["time"]["median"], TIME_AIM)
    yield f"Above {TIME_AIM:g} times AdamW's time: {slow}."
    wasteful = names(lambda row: row["excess_over_adamw"], BYTES_AIM)
    yield f"Bytes over the least above {BYTES_AIM:g} times AdamW's: {wasteful}."
    wasteful = names(lambda row: row["excess_in_passes_over_adamw"], BYTES_AIM)
    yield f"The same with the least in passes: {wasteful}."
    for row in ours:
        if "speedup" in row:
            yield f"{row['name']}: {row['speedup']:.2f} times as fast as Optax's."


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small tree, few turns")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    parser.add_argument("--methods", help="some methods only, with commas in between")
    parser.add_argument(
        "--passes", action="store_true", help="measure what lrjax.optim.passes gains"
    )
    args = parser.parse_args()
    try:
        names = args.methods.split(",") if args.methods else METHODS
        methods = [find(name) for name in names]
    except UsageError as error:
        sys.exit(f"error: {error}")
    jax.config.update("jax_enable_compilation_cache", False)
    size = "quick" if args.quick else "full"
    width, turns = WIDTHS[size], TURNS[size]
    count = LAYERS * width * (width + 1)
    result = {"machine": machine(), "parameters": count, "turns": turns}
    print("\n".join(f"- {k}: {v}" for k, v in result["machine"].items()))
    print(
        f"\n{count:,} float32 parameters in {2 * LAYERS} leaves, {turns} turns. Bytes "
        "and sizes in multiples of the parameters.\n",
        flush=True,
    )
    rows = []
    for row in (measure_passes if args.passes else measure)(methods, width, turns):
        print(f"  {row['name']}: {row['time']['median']:.2f}", file=sys.stderr)
        rows.append(row)
    if args.passes:
        print(show_passes(rows), "\n")
    else:
        print(show(rows), "\n")
        print("\n".join(verdict(rows)))
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    result["peak_gigabytes"] = usage / (1e9 if sys.platform == "darwin" else 1e6)
    print(f"Largest memory of the process: {result['peak_gigabytes']:.1f} GB.")
    if args.json:
        args.json.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
