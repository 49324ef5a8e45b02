r"""ViT-Ti/16 from scratch on DTD, split 1, 224 x 224 pixels, 300 epochs.

  python main.py --config=configs/dtd.py --workdir=runs/dtd --data_dir=DATA
  python main.py --config=configs/dtd.py --workdir=runs/dtd_study --data_dir=DATA \
      --config.protocol=study

docs/vision.md says in which forms DATA may hold DTD.

Cost: 8,700 to 9,000 updates of 64 images and 300 evaluations a run, 4.2 PFLOP without
them; for a GPU, with 7 GB for the images. Expected under `study`: validation accuracy
29.3 (adam), 7.2 (cawr), 28.4 (dadapt_adam), 31.4 (prodigy), 31.6 (cocob) and 28.1
(dowg), as published; not repeated by us.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config() -> ConfigDict:
    """The study's methods and the everyday baseline, three seeds."""
    config = config_lib.base()
    config.tasks = ("dtd/vit_ti16",)
    config.methods = config_lib.COMPARED
    config.seeds = 3
    return config
