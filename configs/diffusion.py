r"""Recurrent networks: an LSTM reads images row by row, then names the class.

  python main.py --config=configs/diffusion.py --workdir=runs/diffusion
  python main.py --config=configs/diffusion.py:mnist/diffusion \
      --workdir=runs/diffusion_mnist --data_dir=DATA

The argument names one task or several: digits/diffusion (scikit-learn's images: 8 steps of 8
numbers), mnist/lstm, fashion_mnist/lstm (28 steps of 28). docs/vision.md lists the
formats of the latter two in DATA and has results.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config(names: str = "digits/diffusion") -> ConfigDict:
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
