r"""DenseNet-BC (6, 12, 24, 16), growth 12, on CIFAR-100, 300 epochs.

  python main.py --config=configs/cifar100.py --workdir=runs/cifar100 --data_dir=DATA
  python main.py --config=configs/cifar100.py --workdir=runs/cifar100_study \
      --data_dir=DATA --config.protocol=study

docs/vision.md lists the formats of CIFAR-100 in DATA.

Cost: 187,500 updates of 64 images per run, 9.0 PFLOP, and 300 evaluations; needs a GPU.
Expected under `study`, as published and not repeated here: validation accuracy 66.2
(adam), 60.0 (cawr), 65.2 (dadapt_adam), 67.0 (prodigy), 62.3 (cocob) and 61.0 (dowg).
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config() -> ConfigDict:
    """Return the config: the study's methods and AdamW with a cosine, three seeds."""
    config = config_lib.base()
    config.tasks = ("cifar100/densenet_bc",)
    config.methods = config_lib.COMPARED
    config.seeds = 3
    return config
