r"""Small convolutional networks for machines without a GPU.

  python main.py --config=configs/small_images.py --workdir=runs/digits
  python main.py --config=configs/small_images.py:fashion_mnist/cnn \
      --workdir=runs/fashion --data_dir=DATA --config.epochs=1

The argument names one task or several: digits/wrn (scikit-learn's images, no download),
mnist/cnn, fashion_mnist/cnn. docs/vision.md lists the formats of the latter two in DATA
and has results.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config(names: str = "digits/wrn") -> ConfigDict:
    """Return the config: seven methods, one seed, five epochs."""
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
    config.epochs = 5
    return config
