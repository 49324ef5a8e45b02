r"""Small networks that classify images, for machines without a GPU.

  python main.py --config=configs/small_images.py --workdir=runs/digits
  python main.py --config=configs/small_images.py:digits/mlp,digits/mlp_bn \
      --workdir=runs/mlp --config.epochs=100
  python main.py --config=configs/small_images.py:fashion_mnist/cnn \
      --workdir=runs/fashion --data_dir=DATA --config.epochs=1

The argument names one task or several: digits/mlp, mlp_bn, cnn, wrn and vit
(scikit-learn's images, no download), mnist/mlp, cnn and vit, fashion_mnist/mlp, cnn,
wrn and vit. docs/vision.md lists the formats of the latter two in DATA, sizes and
results; configs/sequences.py and diffusion.py have recurrent networks and denoisers.
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
