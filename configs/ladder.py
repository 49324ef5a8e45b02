r"""A ladder of tasks from logistic regression to small networks of many kinds.

  python main.py --config=configs/ladder.py:quick --workdir=runs/quick
  python main.py --mode=tune --config=configs/ladder.py:quick --workdir=runs/quick

  python main.py --config=configs/ladder.py:full --workdir=runs/ladder --data_dir=DATA
  python main.py --mode=tune --config=configs/ladder.py:full --workdir=runs/ladder \
      --data_dir=DATA
  python main.py --config=configs/ladder.py:rates --workdir=runs/rates --data_dir=DATA

The first command of each pair trains all methods at their defaults, the second tunes
each (eight full-length runs, the default and seven draws, chosen by validation loss)
and trains what it found with fresh seeds. `rates` trains two methods at nine rates, for
the width of the good range and for how well the order on one task predicts another's.
A command prints what it will cost before it trains, and the same command goes on after
a stop. `python -m benchmarks.ladder` reads the tables (docs/results.md).

`full` has a lighter part, on which the twelve methods of the study's `sound` treatment
have five seeds, and a heavier one (convolutions, attention, language), on which ten of
them have three. A name after it chooses tasks: `full:light`, `full:heavy`,
`full:attention`, `full:digits/cnn,digits/vit`. All data are made up or come with
scikit-learn and Python, but for Fashion-MNIST, whose files are looked for in DATA and
which is left out, with a warning, where they are not.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib
from lrjax.core import UsageError, unknown
from lrjax.messages import nearest

FAMILIES = {
    "linear": (
        *("libsvm/iris", "libsvm/wine", "breast_cancer/logistic", "digits/logistic"),
        *("diabetes/linear", "synthetic/ill_conditioned"),
    ),
    "perceptron": (
        *("synthetic/noisy_gradients", "synthetic/noisy_labels"),
        *("breast_cancer/mlp", "breast_cancer/mlp_bn"),
        *("diabetes/mlp", "diabetes/mlp_bn"),
        *("digits/mlp", "digits/mlp_bn", "fashion_mnist/mlp"),
    ),
    "recurrent": ("digits/lstm", "fashion_mnist/lstm"),
    "diffusion": ("digits/diffusion",),
    "convolution": ("digits/cnn", "digits/wrn", "fashion_mnist/cnn"),
    "attention": ("digits/vit", "fashion_mnist/vit"),
    "language": ("text/gpt_tiny", "bookwiki/roberta_tiny", "finetune/roberta_tiny"),
}
_HEAVY = ("convolution", "attention", "language")
TASKS = tuple(task for tasks in FAMILIES.values() for task in tasks)
HEAVY = tuple(task for name in _HEAVY for task in FAMILIES[name])
HEAVY += ("fashion_mnist/lstm", "fashion_mnist/mlp")
# Lengths at which a run takes two cores some ten seconds.
_LENGTHS = {
    "digits/cnn": {"epochs": 30},
    "digits/wrn": {"epochs": 20},
    "digits/vit": {"epochs": 40},
    "fashion_mnist/mlp": {"epochs": 1},
    "fashion_mnist/cnn": {"steps": 400},
    "fashion_mnist/lstm": {"steps": 400},
    "fashion_mnist/vit": {"steps": 400},
    "text/gpt_tiny": {"steps": 200},
    "bookwiki/roberta_tiny": {"steps": 200},
    "finetune/roberta_tiny": {"epochs": 1},
}
PARTS = {"light": tuple(t for t in TASKS if t not in HEAVY), "heavy": HEAVY, **FAMILIES}
QUICK = ("libsvm/iris", "diabetes/mlp", "synthetic/noisy_labels")

METHODS = (
    *("adam", "adamw_cosine", "nadamw_cosine", "momentum", "cawr"),
    *("dadapt_adam", "prodigy", "cocob", "dowg", "dog"),
    *("schedule_free_adamw", "hypergradient_adam"),
)
# Chosen before any heavy task was trained: without the two whose rates need most
# evaluations to be tuned.
FEWER = tuple(m for m in METHODS if m not in ("cawr", "hypergradient_adam"))
TRIALS = 8
RATES = tuple(10 ** (-4 + i / 2) for i in range(9))


def get_config(arg: str = "quick") -> ConfigDict:
    """Return the config of a part, such as `quick`, `full`, `full:light` or `rates`."""
    part, _, names = (arg or "quick").partition(":")
    if part not in ("quick", "full", "rates"):
        raise unknown("part of the ladder", part, ("quick", "full", "rates"))
    if part == "quick" and names:
        raise UsageError(
            "quick has its own three tasks: give full:NAMES or rates:NAMES"
        )
    config = config_lib.base()
    config.tasks = QUICK if part == "quick" else _tasks(names)
    config.methods = METHODS if part == "full" else FEWER
    config.seeds = 2 if part == "quick" else 5
    config.tune.tuner, config.tune.trials = "random", TRIALS
    if part == "rates":
        config.methods, config.seeds = ("momentum", "adamw_cosine"), 2
        config.grid.learning_rate = RATES
    config.per_task = {
        task: {
            "methods": FEWER if part == "full" else config.methods,
            "seeds": 3 if part == "full" else config.seeds,
            **_LENGTHS.get(task, {}),
        }
        for task in config.tasks
        if task in HEAVY
    }
    config.text.corpus = "pydoc"  # whatever text there is in DATA
    config.skip_missing = True
    return config


def _tasks(names: str) -> tuple[str, ...]:
    """Tasks of a part's name, or of their own names with commas between."""
    if names in PARTS:
        return PARTS[names]
    chosen = tuple(names.split(",")) if names else TASKS
    for name in chosen:
        if name not in TASKS:
            known = (*PARTS, *TASKS)
            error = unknown("task of the ladder", name, known)
            if nearest(name, known):
                raise error
            raise UsageError(f"{error}; its parts are {', '.join(PARTS)}")
    return chosen
