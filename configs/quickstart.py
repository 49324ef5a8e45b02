"""Ten methods on three small data sets: the first thing to run.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart

Cost: 300 runs of 100 epochs; 12 s on two cores, compilation included, 4 s again, and
no download. Expected: see the table in README.md.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config() -> ConfigDict:
    """Return the config: six common methods and the study's learning-rate-free ones."""
    config = config_lib.base()
    config.tasks = ("libsvm/iris", "libsvm/wine", "digits/logistic")
    config.methods = (
        "sgd",
        "momentum",
        "adam",
        "adamw_cosine",
        "nadamw_cosine",
        "cawr",
        "dadapt_adam",
        "prodigy",
        "cocob",
        "dowg",
    )
    return config
