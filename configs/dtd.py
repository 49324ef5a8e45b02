r"""ViT-Ti/16 from scratch on DTD, split 1, 224 x 224 pixels, 300 epochs.

  python main.py --config=configs/dtd.py --workdir=runs/dtd --data_dir=DATA
  python main.py --config=configs/dtd.py --workdir=runs/dtd_study --data_dir=DATA \
      --config.protocol=study

docs/vision.md lists the formats of DTD in DATA.

Cost: 8,700 to 9,000 updates of 64 images per run, 4.2 PFLOP, and 300 evaluations; needs
a GPU, with 7 GB for the images. Expected under `study`, as published and not repeated
here: validation accuracy 29.3 (adam), 7.2 (cawr), 28.4 (dadapt_adam), 31.4 (prodigy),
31.6 (cocob) and 28.1 (dowg).
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config() -> ConfigDict:
    """Return the config: the study's methods and AdamW with a cosine, three seeds."""
    config = config_lib.base()
    config.tasks = ("dtd/vit_ti16",)
    config.methods = config_lib.COMPARED
    config.seeds = 3
    return config
