r"""Recurrent networks: an LSTM reads images row by row, then names the class.

  python main.py --config=configs/sequences.py --workdir=runs/sequences
  python main.py --config=configs/sequences.py:fashion_mnist/lstm \
      --workdir=runs/sequences_fashion --data_dir=DATA

The argument names one task or several: digits/lstm (scikit-learn's images: 8 steps of 8
numbers), mnist/lstm, fashion_mnist/lstm (28 steps of 28). docs/vision.md lists the
formats of the latter two in DATA and has results.

The first command makes 1,700 updates of 19,338 parameters with each of seven methods.
It took 104 s of CPU time with compilation; validation accuracy was 96.9 % for
adamw_cosine and 95.3 % for adam.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config(names: str = "digits/lstm") -> ConfigDict:
    """Return the config: seven methods, one seed, the protocol's length."""
    config = config_lib.base()
    config.tasks = tuple(name.strip() for name in names.split(","))
    config.methods = (
        "sgd",
        "adam",
        "adamw_cosine",
        "dadapt_adam",
        "prodigy",
        "cocob",
        "dowg",
    )
    config.seeds = 1
    config.eval_every = 170
    return config
