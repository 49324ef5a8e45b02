"""The three problems of the golden trajectories, and the trajectories themselves.

Needs JAX and NumPy only; building a case's transformation needs lrjax and Optax.

    for case in cases("prodigy"):
        transformation = case.build()
        params = case.problem.init
        ...  # in float64: gradient of case.loss(params, step), update
        # compare with case.checkpoints[1], [2], [5], ...
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DIRECTORY = pathlib.Path(__file__).parent
PROBLEMS = ("quadratic", "softmax", "mlp")
# Where gradients have full rank, for a method that needs their singular vectors.
SQUARE = "square"
STEPS = 50
CHECKPOINTS = (1, 2, 5, 10, 25, 50)

# The file, without its ending, that has the runs of a method.
FILES = {
    "dadapt_adam": "dadapt",
    "dadapt_sgd": "dadapt",
    "dadapt_adagrad": "dadapt",
    "dadapt_lion": "dadapt",
    "prodigy": "prodigy",
    "cocob": "cocob",
    "dog": "dog",
    "ldog": "dog",
    "dowg": "dog",
    "cdowg": "dog",
    "schedule_free_sgd": "schedule_free",
    "schedule_free_adamw": "schedule_free",
    "schedule_free_radam": "schedule_free",
    "schedule_free_prodigy": "schedule_free",
    "hypergradient_sgd": "hypergradient",
    "hypergradient_adam": "hypergradient",
    "momo": "momo",
    "momo_adam": "momo",
    "mechanic": "mechanic",
    "storm_plus": "storm_plus",
    "ali_g": "polyak",
    "sps_smooth": "polyak",
    "dec_sps": "polyak",
    "ngn": "polyak",
    "l4_adam": "l4",
    "l4_momentum": "l4",
    "iam": "iam",
    "iam_adam": "iam",
    "multirate_sgd": "hypergradients",
    "ultimate_adam": "hypergradients",
    "osgm": "hypergradients",
    "salsa": "salsa",
    "abel": "abel",
    "autolrs": "autolrs",
    "dadapt_adan": "dadapt_adan",
    "adgd": "adgd",
    "adamg": "adamg",
    "barzilai_borwein": "barzilai_borwein",
    "cdat": "cdat",
    "radam": "radam",
    "prodigy_plus_schedule_free": "prodigy_plus_schedule_free",
    "adog": "adog",
    "trac": "trac",
    "schedule_free_plus": "schedule_free_plus",
    "kt": "kt",
    "lion": "lion",
    "muon": "muon",
    "soap": "soap",
    "adopt": "adopt",
    "ademamix": "ademamix",
    "adan": "adan",
    "lars": "trust_ratio",
    "lamb": "trust_ratio",
    "cautious": "cautious",
    "cautious_adamw": "cautious",
}

# The methods whose runs with parameter groups are in the file of this name.
GROUPS = "groups"
GROUPED_METHODS = (
    "sgd",
    "adamw",
    "dadapt_adam",
    "dadapt_sgd",
    "dadapt_adagrad",
    "dadapt_lion",
    "prodigy",
    "cocob",
    "ldog",
    "schedule_free_sgd",
    "schedule_free_adamw",
    "schedule_free_radam",
    "schedule_free_prodigy",
    "momo",
    "momo_adam",
)

# The file of Prodigy's runs that estimate d from a part of the entries.
SLICES = "slices"

Params = dict[str, Any]


def group_of(leaf: Any) -> str:
    """The parameter group that a leaf is in, where there are two."""
    return "matrices" if leaf.ndim > 1 else "vectors"


def by_group(values: Mapping[str, Any], params: Params) -> Params:
    """For each leaf the value of its parameter group."""
    return jax.tree.map(lambda leaf: values[group_of(leaf)], params)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A loss to minimise, in float64.

    Attributes:
      name: one of `PROBLEMS`.
      init: parameters before the first update, by leaf, in the order of
        `jax.tree.leaves`.
      data: the arrays that the loss is made of.
    """

    name: str
    init: Mapping[str, np.ndarray]
    data: Mapping[str, np.ndarray]

    def loss(self, params: Params, step: Any) -> jax.Array:
        """The loss of update `step` (0, 1, ...; may be traced)."""
        if self.name == "square":
            moved = self.data["left"] @ params["X"] @ self.data["right"]
            return 0.5 * jnp.sum((moved - jnp.asarray(self.data["aim"])[step]) ** 2)
        if self.name == "quadratic":
            away = params["x"] - self.data["minimum"]
            return 0.5 * away @ self.data["hessian"] @ away
        rows = jnp.asarray(self.data["batches"])[step]
        hidden = jnp.asarray(self.data["inputs"])[rows]
        labels = jnp.asarray(self.data["labels"])[rows]
        if self.name == "mlp":
            hidden = jnp.tanh(hidden @ params["W1"] + params["b1"])
            logits = hidden @ params["W2"] + params["b2"]
        else:
            logits = hidden @ params["W"] + params["b"]
        scores = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], axis=1))

    def unflatten(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Parameters from all their values in a row, in the order of `init`."""
        ends = np.cumsum([leaf.size for leaf in self.init.values()])
        pieces = np.split(values, ends[:-1])
        return {
            name: piece.reshape(leaf.shape)
            for (name, leaf), piece in zip(self.init.items(), pieces, strict=True)
        }


def loss_after(still: int, loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`loss(params, step)`, and zero in the first `still` steps."""
    return lambda params, step: jnp.where(step < still, 0.0, loss(params, step))


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden run.

    Attributes:
      method: a function of lrjax.optim.
      name: the setting; unique for a method.
      problem: what was minimised.
      kwargs: the arguments for the function, without the learning rate if
        `lr_schedule` is set. `base_optimizer` is a pair of a function of Optax and
        its arguments; `weight_decay_mask` and `learning_rate_factors` have a value
        for each parameter group.
      lr_schedule: the learning rate of each update, or None.
      averaging: gamma of `polynomial_averaging` around the method, or None.
      still: how many updates, from the first, are given gradients and a loss of zero.
      source: the official implementation, or that there is none.
      checkpoints: number of updates made -> parameters.
      eval_checkpoints: number of updates made -> parameters to evaluate, where they
        differ from those trained; else empty.
      z_checkpoints: number of updates made -> z of a schedule-free method; else empty.
      scalars: name -> value after each update.
    """

    method: str
    name: str
    problem: Problem
    kwargs: Mapping[str, Any]
    lr_schedule: np.ndarray | None
    averaging: float | None
    still: int
    source: str
    checkpoints: Mapping[int, dict[str, np.ndarray]]
    eval_checkpoints: Mapping[int, dict[str, np.ndarray]]
    z_checkpoints: Mapping[int, dict[str, np.ndarray]]
    scalars: Mapping[str, np.ndarray]

    @property
    def id(self) -> str:
        """A name for reports."""
        return f"{self.method}-{self.name}-{self.problem.name}"

    def loss(self, params: Params, step: Any) -> jax.Array:
        """What the run minimised at update `step`."""
        return loss_after(self.still, self.problem.loss)(params, step)

    def build(self) -> Any:
        """The transformation of lrjax.optim that should take the same path."""
        import optax

        from lrjax import optim

        kwargs = dict(self.kwargs)
        if self.lr_schedule is not None:
            table = jnp.asarray(self.lr_schedule)
            kwargs["learning_rate"] = lambda count: table[count]
        for name in ("weight_decay_mask", "learning_rate_factors", "hidden"):
            if name in kwargs:
                kwargs[name] = functools.partial(by_group, kwargs[name])
        if "base_optimizer" in kwargs:
            name, base_kwargs = kwargs["base_optimizer"]
            kwargs["base_optimizer"] = getattr(optax, name)(**base_kwargs)
        transformation = getattr(optim, self.method)(**kwargs)
        if self.averaging is None:
            return transformation
        return optim.polynomial_averaging(transformation, gamma=self.averaging)


@functools.cache
def problem(name: str) -> Problem:
    """The problem called `name`."""
    init, data = {}, {}
    with np.load(DIRECTORY / f"{SQUARE if name == SQUARE else 'problems'}.npz") as file:
        for key in file.files:
            owner, _, key_of_owner = key.partition("/")
            if owner == name:
                kind, _, leaf = key_of_owner.partition("/")
                (init if kind == "init" else data)[leaf or kind] = file[key]
    return Problem(name, dict(sorted(init.items())), data)


def cases(method: str, owner: str | None = None) -> Iterator[Case]:
    """The golden runs of a function of lrjax.optim; of a file, by default its own."""
    with np.load(DIRECTORY / f"{owner or FILES[method]}.npz") as file:
        names = set(file.files)
        for index, record in enumerate(json.loads(str(file["cases"]))):
            if record["method"] != method:
                continue
            of_problem = problem(record.pop("problem"))

            def checkpoints(kind: str, index=index, of_problem=of_problem) -> dict:
                key = f"{index}/{kind}"
                rows = file[key] if key in names else []
                return {
                    step: of_problem.unflatten(row)
                    for step, row in zip(CHECKPOINTS, rows, strict=len(rows) > 0)
                }

            prefix = f"{index}/scalar/"
            schedule = f"{index}/lr_schedule"
            yield Case(
                problem=of_problem,
                lr_schedule=file[schedule] if schedule in names else None,
                checkpoints=checkpoints("params"),
                eval_checkpoints=checkpoints("eval"),
                z_checkpoints=checkpoints("z"),
                scalars={
                    name.removeprefix(prefix): file[name]
                    for name in names
                    if name.startswith(prefix)
                },
                **record,
            )
