"""STUDY and SOUND: the choices in which the two protocols differ, except for data.

Tasks split, scale and evaluate the rows; docs/protocol.md compares the protocols line
by line. A third protocol is one more dataclass here.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

from lrjax.core import Range, Space, unknown
from lrjax.methods import METHODS


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Settings of tuning on a group of tasks.

    Attributes:
      spaces: method -> search space; the method's own space for those not listed.
      budgets: method -> smallest budget and its unit, 'epochs' or 'steps'; '' is for
        all other methods. Without an entry budgets are epochs (steps, if training is
        set in steps), and the smallest leaves room for two promotions to a full run.
      cost: column to tune by, unless `config.tune.cost` names another.
      diverged: cost of a diverged trial: 'twice the worst' finite cost so far, a
        number, or 'as measured', where `cost` is a mean over all updates to which
        those after the divergence contribute 0.
      fidelity: 'truncate' cuts off a schedule that spans the full length, 'rescale'
        fits it to the budget.
      default_first: whether the method's default configuration is tried first.
      full_length: whether every task gets the planned number of full-length
        evaluations, whatever the tuner leaves out.
    """

    spaces: Mapping[str, Space] = dataclasses.field(default_factory=dict)
    budgets: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    cost: str = "valid_loss"
    diverged: str | float = "twice the worst"
    fidelity: str = "truncate"
    default_first: bool = True
    full_length: bool = True


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Choices that do not belong to a method or a task alone.

    Attributes:
      name: name in tables and configs.
      data: 'sound' or 'study': the splits, scaling and evaluation of tasks.
      hparams: method -> hyperparameters that differ from the method's defaults.
      task_hparams: start of a task's name, with wildcards as in a shell -> the same for
        these tasks; overrides `hparams`, and of several that match, the later overrides
        the earlier.
      fresh_batches: methods whose every batch is the first of a new shuffle.
      in_epochs: starts of names of tasks on which these methods use epochs, too.
      tuning: start of a task's name -> tuning on these tasks.
      lengths: start of a task's name -> length of its runs, and its unit.
    """

    name: str
    data: str = "sound"
    hparams: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    task_hparams: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict
    )
    fresh_batches: frozenset[str] = frozenset()
    in_epochs: tuple[str, ...] = ()
    tuning: Mapping[str, Tuning] = dataclasses.field(
        default_factory=lambda: {"": Tuning()}
    )
    lengths: Mapping[str, tuple[int, str]] = dataclasses.field(
        default_factory=lambda: _LENGTHS
    )

    def overrides(self, method: str, task: str) -> dict[str, Any]:
        """Return the hyperparameters that this protocol sets for a method on a task."""
        changed = dict(self.hparams.get(method, {}))
        for start, values in self.task_hparams.items():
            if fnmatch.fnmatchcase(task, f"{start}*"):
                changed |= values.get(method, {})
        return changed

    def draws_afresh(self, method: str, task: str) -> bool:
        """Whether every batch of a method on a task is the first of a new shuffle."""
        return method in self.fresh_batches and not task.startswith(self.in_epochs)

    def sums_losses(self, task: str) -> bool:
        """Whether tuning on a task uses the mean loss of all updates."""
        tuned = any(task.startswith(start) for start in self.tuning)
        return tuned and self.tuning_of(task).cost == "mean_batch_loss"

    def tuning_of(self, task: str) -> Tuning:
        """Return the tuning of the longest start that matches a task's name."""
        return _longest_match(self.tuning, task)

    def length(self, task: str) -> tuple[int, str]:
        """Return the length of a run on a task: a number, and 'epochs' or 'steps'."""
        return _longest_match(self.lengths, task)


def _longest_match(values: Mapping[str, Any], task: str) -> Any:
    """Return the value of the longest key that a task's name starts with."""
    starts = [start for start in values if task.startswith(start)]
    return values[max(starts, key=len)]


# The study's lengths, in both protocols; small tasks that it does not have take a core
# of a CPU up to about a minute.
_LENGTHS = {
    "": (100, "epochs"),
    "synthetic/noisy_": (10, "epochs"),
    "cifar10/": (300, "epochs"),
    "cifar100/": (300, "epochs"),
    "dtd/": (300, "epochs"),
    "bookwiki/": (23_000, "steps"),
    "bookwiki/roberta_tiny": (2_000, "steps"),
    **dict.fromkeys(("mnist/mlp", "fashion_mnist/mlp"), (3, "epochs")),
    **dict.fromkeys(("mnist/lstm", "fashion_mnist/lstm"), (2, "epochs")),
    **dict.fromkeys(("mnist/vit", "fashion_mnist/vit"), (1, "epochs")),
    "fashion_mnist/wrn": (300, "steps"),
    "fashion_mnist/wrn16_4": (100, "epochs"),
    "mnist/diffusion": (2, "epochs"),
    "text/": (600, "steps"),
    "text/gpt_small": (20_000, "steps"),
    "finetune": (4, "epochs"),
}


def _tuned_cawr(
    T_0: int, t_mult: int, learning_rate: float, eta_min: float
) -> dict[str, Any]:
    """Hyperparameters of `cawr`, from one line of the study's table."""
    return {
        "T_0": T_0,
        "t_mult": t_mult,
        "learning_rate": learning_rate,
        "eta_min": eta_min,
    }


_CAWR_SMALL = _tuned_cawr(30, 4, 0.2405267676853, 0.0043424324019)
_CAWR_MEDIUM = _tuned_cawr(45, 5, 0.0179811789472, 0.0011440533481)
_CAWR_LARGE = _tuned_cawr(38, 2, 0.598658484197, 0.0030055750587)

# The study's tuned values, with all digits (its configs, files tuned_*).
_TUNED = {
    "libsvm/wine": (0.9998564629315, _CAWR_SMALL),
    "libsvm/iris": (0.9988558724108, _CAWR_SMALL),
    "libsvm/vowel": (0.9998439822168, _CAWR_MEDIUM),
    "libsvm/vehicle": (0.7319939418114, _CAWR_MEDIUM),
    "libsvm/dna": (0.9522964199496, _CAWR_LARGE),
    "libsvm/pendigits": (0.7535255294272, _CAWR_LARGE),
    "libsvm/letter": (0.7044118702946, _CAWR_LARGE),
    "libsvm/sensorless": (0.6970762748657, _CAWR_LARGE),
    "libsvm/aloi": (0.2709798509559, _CAWR_LARGE),
    "cifar10/": (
        0.0193164317787,
        _tuned_cawr(29, 4, 0.0057869866522, 0.0048900232824),
    ),
    # This cosine rises: eta_min is above the initial rate.
    "cifar100/": (
        0.0022199946895,
        _tuned_cawr(39, 2, 0.0019257718469, 0.0049729217242),
    ),
    "dtd/": (0.000880923938, _tuned_cawr(40, 1, 0.0048815239592, 0.0012426552362)),
    "bookwiki/": (
        0.0044237631561,
        _tuned_cawr(47, 2, 0.0142293709729, 0.0029495649644),
    ),
}


def _study_tuning(
    highest_rate: float,
    fixed: tuple[int, str],
    cawr: tuple[int, str],
    cost: str = "last_batch_loss",
    diverged: str | float = 100.0,
    fidelity: str = "rescale",
) -> Tuning:
    """Return the study's search spaces (all linear) and smallest budgets.

    Args:
      highest_rate: upper end of the learning rate's range.
      fixed, cawr: smallest budget of Adam and of CAWR, with its unit.
      cost, diverged, fidelity: as in `Tuning`.
    """
    rate = Range(0.0, highest_rate, log=False)
    cycles = {
        "T_0": Range(0, 50, log=False, integer=True),
        "t_mult": Range(1, 5, log=False, integer=True),
        "eta_min": Range(0.0, 0.005, log=False),
    }
    return Tuning(
        spaces={
            "adam": Space({"learning_rate": rate}),
            "cawr": Space({"learning_rate": rate, **cycles}),
        },
        budgets={"": fixed, "cawr": cawr},
        cost=cost,
        diverged=diverged,
        fidelity=fidelity,
        default_first=False,
        full_length=False,
    )


_STUDY_TUNING = {
    "": _study_tuning(1.0, (20, "epochs"), (20, "steps")),
    "cifar10/": _study_tuning(0.1, (5, "epochs"), (3125, "steps")),
    "cifar100/": _study_tuning(0.1, (5, "epochs"), (3125, "steps")),
    "dtd/": _study_tuning(0.1, (5, "epochs"), (145, "steps")),
    # The warm-up has 10,000 steps at every budget, as at full length. The cost is the
    # Trainer's `train_loss`, to which a step with a loss that is not finite adds 0
    # (`logging_nan_inf_filter`).
    "bookwiki/": _study_tuning(
        1.0,
        (500, "steps"),
        (500, "steps"),
        cost="mean_batch_loss",
        diverged="as measured",
        fidelity="truncate",
    ),
}

_ADAM = {"b2": 0.99}
_CAWR = {"b2": 0.99, "end_with_cycle": False, "idle_first_step": True}

_DTD = {"dadapt_adam": {"b2": 0.99}, "prodigy": {"b2": 0.99}}  # as its configs have it

# On RoBERTa the study's trainer warms every rate up over 10,000 of 23,000 steps and,
# except for CAWR, then decays it linearly to zero.
_WARM = {"warmup_fraction": 10 / 23}
_LINEAR = _WARM | {"schedule": "linear"}
_BETAS = {"b2": 0.98}
_BOOKWIKI = {
    **dict.fromkeys(("cocob", "dowg"), _LINEAR),
    **dict.fromkeys(("adam", "smac", "dadapt_adam", "prodigy"), _LINEAR | _BETAS),
    **dict.fromkeys(
        ("cawr", "cawr_tuned"), _WARM | _BETAS | {"idle_first_step": False}
    ),
}
_STUDY_TASKS = {"dtd/": _DTD, "bookwiki/": _BOOKWIKI}


def _merged(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Merge several mappings method -> hyperparameters; later ones override."""
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for method, hparams in layer.items():
            merged[method] = {**merged.get(method, {}), **hparams}
    return merged


STUDY = Protocol(
    name="study",
    data="study",
    hparams={
        "adam": _ADAM,
        "smac": _ADAM,
        "cawr": _CAWR,
        "cawr_tuned": _CAWR,
        "dadapt_adam": {"schedule": "constant"},
        "prodigy": {"schedule": "constant"},
        "cocob": {"decay_after_rate": True},
        "dowg": {"eps": 1e-8, "normalize_rate": True},
        "storm_plus": {"normalized_norm": True, "double_decay": True},
    },
    task_hparams={
        task: _merged(
            {"smac": {"learning_rate": rate}, "cawr_tuned": cawr},
            _STUDY_TASKS.get(task, {}),
        )
        for task, (rate, cawr) in _TUNED.items()
    },
    fresh_batches=frozenset({"cawr", "cawr_tuned"}),
    in_epochs=("bookwiki/",),
    tuning=_STUDY_TUNING,
)


def _both(learning_rate: float) -> dict[str, dict[str, float]]:
    """One rate for the two everyday baselines, for which the same was found best."""
    methods = ("adamw_cosine", "nadamw_cosine")
    return {method: {"learning_rate": learning_rate} for method in methods}


# One rate for all logistic regression: of 3e-4, 1e-3, 3e-3, ... 1 the one with the
# lowest validation loss, averaged over five seeds and over libsvm/glass and
# libsvm/usps, two sets outside every comparison. It is the same for both methods.
_CALIBRATED = _both(0.03)

# At base size post-LN stops learning above about 5e-4 (the study's Adam at 1e-3 does);
# on the tiny model the default of 1e-3 was the best of 1e-4, 1e-3, 3e-3 and 1e-2.
_CALIBRATED_TEXT = _both(4e-4)

# The same for convolutional networks, over digits/wrn and fashion_mnist/cnn
# (docs/protocol.md); transformers on images have none.
_CALIBRATED_CONV = _both(0.01)
# The same for the small causal language models, on source code (docs/protocol.md).
_CALIBRATED_GPT = _both(0.003)
# The same for the small classifier. RoBERTa's authors fine-tune with 1e-5 to 3e-5.
_CALIBRATED_FINETUNE = _both(0.001)
_PUBLISHED_FINETUNE = _both(2e-5)
_LOGISTIC_TASKS = ("libsvm/", "digits/logistic", "svmlight:", "table:")
_LOGISTIC_TASKS += ("breast_cancer/logistic", "diabetes/linear")
_CONV_TASKS = (
    *("cifar10/wrn", "cifar100/", "mnist/cnn", "fashion_mnist/cnn"),
    *("fashion_mnist/wrn", "digits/cnn", "digits/wrn"),
)

# The same for other small networks on images, each over MNIST, which is outside of the
# comparisons (docs/protocol.md): kind of model -> its tasks' rate.
_CALIBRATED_SMALL = {"mlp": 0.003, "lstm": 0.01, "vit": 0.003, "diffusion": 0.003}
_SMALL_TASKS = {
    f"{data}/{kind}": _both(rate)
    for kind, rate in _CALIBRATED_SMALL.items()
    for data in ("digits", "mnist", "fashion_mnist")
}

# Networks on tables, over iris/mlp and wine/mlp; made-up tasks, over two others of the
# same kind (docs/protocol.md).
_CALIBRATED_MLP = _both(0.01)
_CALIBRATED_LEAST_SQUARES = _both(0.1)
_MLP_TASKS = ("breast_cancer/mlp", "diabetes/mlp", "synthetic/noisy_")

# On text every Adam has the b2 of RoBERTa's authors.
_TEXT = {m.name: {"b2": 0.98} for m in METHODS.values() if m.adam_like}

SOUND = Protocol(
    name="sound",
    task_hparams={
        **dict.fromkeys(_LOGISTIC_TASKS, _CALIBRATED),
        **dict.fromkeys(_CONV_TASKS, _CALIBRATED_CONV),
        **dict.fromkeys(_MLP_TASKS, _CALIBRATED_MLP),
        "synthetic/ill_conditioned": _CALIBRATED_LEAST_SQUARES,
        **_SMALL_TASKS,
        "bookwiki/": _TEXT,
        "bookwiki/roberta_base": _CALIBRATED_TEXT,
        "bookwiki/roberta_small": _CALIBRATED_TEXT,
        "text/gpt_micro": _CALIBRATED_GPT,
        "text/gpt_tiny": _CALIBRATED_GPT,
        "text/gpt_small": _CALIBRATED_TEXT,
        "finetune/roberta_tiny": _CALIBRATED_FINETUNE,
        "finetune/roberta_base": _PUBLISHED_FINETUNE,
        "finetune:*[?&]checkpoint=": _PUBLISHED_FINETUNE,
    },
)

PROTOCOLS = {protocol.name: protocol for protocol in (SOUND, STUDY)}


def find(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
      UsageError: if the name is unknown.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
