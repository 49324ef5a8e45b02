r"""Logistic regression on LIBSVM's multi-class data sets.

  python main.py --config=configs/libsvm.py:vehicle --workdir=runs/vehicle
  python main.py --config=configs/libsvm.py:iris,wine --workdir=runs/small \
      --config.methods=adam --config.grid.learning_rate=0.001,0.01,0.1

The argument names one data set or several (iris wine vowel vehicle dna letter
pendigits sensorless aloi glass usps); default: the study's nine. Iris and wine need no
download. `--config.protocol=study` treats the data as the study does.

Cost, ten methods and ten seeds on two cores: seconds for iris, wine, vowel and
vehicle, a minute or two for dna, pendigits and letter.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib

STUDY = ("iris", "wine", "vowel", "vehicle", "dna", "pendigits", "letter")
STUDY += ("sensorless", "aloi")


def get_config(names: str = ",".join(STUDY)) -> ConfigDict:
    """Return the config: ten methods, ten seeds, 100 epochs, batches of 64."""
    config = config_lib.base()
    config.tasks = tuple(f"libsvm/{name.strip()}" for name in names.split(","))
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
