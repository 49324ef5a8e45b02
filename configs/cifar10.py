r"""WRN-16-2 on CIFAR-10, 300 epochs.

  python main.py --config=configs/cifar10.py --workdir=runs/cifar10 --data_dir=DATA
  python main.py --config=configs/cifar10.py --workdir=runs/cifar10_study \
      --data_dir=DATA --config.protocol=study --config.methods=adam,dadapt_adam,prodigy

The argument names the model: `configs/cifar10.py:wrn16_8` has a width of 8.
docs/vision.md lists the formats of CIFAR-10 in DATA.

Cost: 187,500 updates of 64 images per run, 7.3 PFLOP, and 300 evaluations; needs a GPU.
Five epochs of one method on a machine without one: `--config.epochs=5
--config.methods=adam --config.seeds=1`. Expected under `study`, as published and not
repeated here: validation accuracy 91.1 (adam), 90.8 (dadapt_adam) and 91.2 (prodigy).
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config(model: str = "wrn16_2") -> ConfigDict:
    """Return the config: the study's methods and AdamW with a cosine, three seeds."""
    config = config_lib.base()
    config.tasks = (f"cifar10/{model}",)
    config.methods = config_lib.COMPARED
    config.seeds = 3
    return config
