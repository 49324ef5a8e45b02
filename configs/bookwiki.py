r"""RoBERTa as a masked language model, 23,000 steps of 256 rows.

  python main.py --config=configs/bookwiki.py:roberta_tiny --workdir=runs/tiny
  python main.py --config=configs/bookwiki.py --workdir=runs/bookwiki \
      --config.text.corpus='~/books/*.txt.xz,~/wikipedia.txt' \
      --config.text.tokenizer=~/roberta-base
  python main.py --config=configs/bookwiki.py --workdir=runs/study \
      --config.protocol=study --config.text.fraction=0.01 \
      --config.text.corpus=hf:wikimedia/wikipedia:20231101.en,hf:bookcorpus/bookcorpus

The argument names the model: roberta_base, roberta_small or roberta_tiny, with _pre_ln
behind it for one that normalises first. The first line needs no data: roberta_tiny
reads the reference text that comes with Python where --data_dir has no text.
docs/text.md says what a corpus is and how it is tokenised. The study's articles are
those of 20220301, whose set not every version of `datasets` reads.

Cost: roberta_base is for a GPU in bfloat16: 105 TFLOP a step with rows of 512 tokens,
2,416 PFLOP a run. roberta_tiny takes six minutes a run on two cores. Expected under
`study`: dadapt_adam at a perplexity of 15, adam lost at its peak rate, as published;
not repeated by us.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib


def get_config(model: str = "roberta_base") -> ConfigDict:
    """The study's methods and the everyday baseline."""
    config = config_lib.base()
    config.tasks = (f"bookwiki/{model}",)
    config.methods = config_lib.COMPARED
    tiny = model.startswith("roberta_tiny")
    config.seeds = 1 if tiny else 3
    config.eval_every = 100 if tiny else 500
    config.precision = "float32" if tiny else "bfloat16"
    return config
