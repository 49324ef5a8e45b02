r"""A causal language model of bytes, for machines without a GPU; and GPT-2's size.

  python main.py --config=configs/gpt.py --workdir=runs/gpt
  python main.py --config=configs/gpt.py:gpt_small --workdir=runs/gpt_small \
      --config.text.corpus='~/books/*.txt.xz' --config.text.tokenizer=~/roberta-base

The argument names the model: gpt_micro, gpt_tiny or gpt_small. The first command needs
no data: without text in --data_dir the small two read the reference text that comes
with Python. docs/text.md explains corpora and tokenizers.

Size: gpt_tiny has 360,768 parameters, 600 updates of 16 rows of 64 bytes and 1.3 TFLOP
per run; gpt_micro 69,168 parameters, and 0.2 TFLOP; gpt_small 123.7 million, 20,000
updates of 64 rows of 1,024 tokens and 1,100 PFLOP, in bfloat16, which needs a GPU and
was not run. Cost: 53 s of a core per run of gpt_tiny (0.09 s per update), two to three
minutes on a machine whose two cores did other work. Expected of gpt_tiny on Python's
text, with adamw_cosine as calibrated: a validation
perplexity of 4.98 per byte, 12.4 after 100 updates (one seed, Python 3.11).
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config(model: str = "gpt_tiny") -> ConfigDict:
    """Return the config: seven methods, one seed, as long as the model's runs are."""
    config = config_lib.base()
    config.tasks = (f"text/{model}",)
    config.methods = (
        "momentum",
        "adam",
        "adamw_cosine",
        "dadapt_adam",
        "prodigy",
        "schedule_free_adamw",
        "dowg",
    )
    small = model != "gpt_small"
    config.seeds = 1
    config.eval_every = 100 if small else 500
    config.precision = "float32" if small else "bfloat16"
    config.micro_batches = 1 if small else 8
    return config
