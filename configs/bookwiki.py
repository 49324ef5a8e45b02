r"""RoBERTa as a masked language model, 23,000 steps of 256 rows.

  python main.py --config=configs/bookwiki.py:roberta_tiny --workdir=runs/tiny
  python main.py --config=configs/bookwiki.py --workdir=runs/bookwiki \
      --config.text.corpus='~/books/*.txt.xz,~/wikipedia.txt' \
      --config.text.tokenizer=~/roberta-base
  python main.py --config=configs/bookwiki.py --workdir=runs/study \
      --config.protocol=study --config.text.fraction=0.01 \
      --config.text.corpus=hf:wikimedia/wikipedia:20231101.en,hf:bookcorpus/bookcorpus

The argument names the model: roberta_base, roberta_small or roberta_tiny, with _pre_ln
appended for layer norms before each block. The first command needs no data:
roberta_tiny reads the reference text that comes with Python if --data_dir has no text.
docs/text.md explains corpora and tokenizers. The study uses the articles of 20220301,
which not every version of `datasets` can read.

Cost: roberta_base needs a GPU, in bfloat16: 105 TFLOP per step with rows of 512 tokens,
2,416 PFLOP per run. roberta_tiny takes six minutes per run on two cores. Expected under
`study`, as published and not repeated here: dadapt_adam reaches a perplexity of 15,
adam stops learning at its peak rate.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config(model: str = "roberta_base") -> ConfigDict:
    """Return the config: the study's methods and AdamW with a cosine schedule."""
    config = config_lib.base()
    config.tasks = (f"bookwiki/{model}",)
    config.methods = config_lib.COMPARED
    tiny = model.startswith("roberta_tiny")
    config.seeds = 1 if tiny else 3
    config.eval_every = 100 if tiny else 500
    config.precision = "float32" if tiny else "bfloat16"
    return config
