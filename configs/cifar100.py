r"""DenseNet-BC (6, 12, 24, 16), growth 12, on CIFAR-100, 300 epochs.

  python main.py --config=configs/cifar100.py --workdir=runs/cifar100 --data_dir=DATA
  python main.py --config=configs/cifar100.py --workdir=runs/cifar100_study \
      --data_dir=DATA --config.protocol=study

docs/vision.md says in which forms DATA may hold CIFAR-100.

Cost: 187,500 updates of 64 images and 300 evaluations a run, 9.0 PFLOP without them;
for a GPU. Expected under `study`: validation accuracy 66.2 (adam), 60.0 (cawr), 65.2
(dadapt_adam), 67.0 (prodigy), 62.3 (cocob) and 61.0 (dowg), as published; not
repeated by us.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config() -> ConfigDict:
    """The study's methods and the everyday baseline, three seeds."""
    config = config_lib.base()
    config.tasks = ("cifar100/densenet_bc",)
    config.methods = config_lib.COMPARED
    config.seeds = 3
    return config
