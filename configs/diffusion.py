r"""Denoisers: networks that predict the noise mixed into an image.

  python main.py --config=configs/diffusion.py --workdir=runs/diffusion
  python main.py --config=configs/diffusion.py:mnist/diffusion \
      --workdir=runs/diffusion_mnist --data_dir=DATA

The argument names one task or several: digits/diffusion (scikit-learn's images),
mnist/diffusion, fashion_mnist/diffusion (a U-Net, for accelerators). docs/vision.md
lists the formats of the latter two in DATA and has results.

The first command makes 1,700 updates of 133,057 parameters with each of seven methods.
It took 170 s of CPU time with compilation; the validation loss was 0.204 for
adamw_cosine and 0.216 for adam (predicting nothing: 1; the best linear one: 0.218).
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
