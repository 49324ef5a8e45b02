r"""A pre-trained RoBERTa that learns to classify texts.

  python main.py --config=configs/finetune.py --workdir=runs/finetune
  python main.py --config=configs/finetune.py --workdir=runs/mails \
      --config.tasks='finetune:mails.csv?text=body&target=folder&checkpoint=~/roberta'
  python main.py --config=configs/finetune.py:roberta_base --workdir=runs/base \
      --data_dir=DATA

The argument names the model: roberta_tiny comes with lrjax, and classifies docstrings
of Python's library by what their modules are for; roberta_base is read from
DATA/roberta-base and learns from DATA/finetune/train.csv. docs/text.md has the formats.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config(model: str = "roberta_tiny") -> ConfigDict:
    """Return the config: seven methods, one seed, four epochs."""
    config = config_lib.base()
    config.tasks = (f"finetune/{model}",)
    config.methods = (
        "momentum",
        "adam",
        "adamw_cosine",
        "dadapt_adam",
        "prodigy",
        "schedule_free_adamw",
        "dowg",
    )
    config.seeds = 1
    config.eval_every = None
    config.precision = "float32" if model == "roberta_tiny" else "bfloat16"
    return config
