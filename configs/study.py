r"""The study: eight methods on its tasks, ten seeds; also without its confounders.

  python main.py --config=configs/study.py:libsvm --workdir=runs/study --data_dir=DATA
  python main.py --mode=tune --config=configs/study.py:libsvm --workdir=runs/study \
      --data_dir=DATA --config.methods=adam,cawr
  python main.py --config=configs/study.py:libsvm:sound --workdir=runs/sound \
      --data_dir=DATA
  python main.py --config=configs/study.py:libsvm:grid --workdir=runs/grid \
      --data_dir=DATA

The first part of the argument names tasks: `libsvm` (the nine LIBSVM sets), `vision`
(CIFAR-10, CIFAR-100, DTD), `text` (RoBERTa) or `all`. The second names the treatment:
`study` repeats the study, with its tuned values; `sound` removes its confounders and
adds baselines; `grid` is `sound` for 32 rates of Adam, constant and with warm-up and
cosine. `--mode=tune` adds a tuning of our own (second command).

Tasks whose data are not available are skipped with a warning. Each command ends with a
report.

Cost on two cores: `libsvm` takes about a minute without aloi and the full Sensorless,
`sound` and `grid` twice that; `--mode=plan` estimates more. `vision` and `text` need
GPUs: 240 runs of 300 epochs; RoBERTa as published had three seeds and six hours on four
GPUs per run.
`text` has three seeds and bfloat16, `all` ten seeds and float32 throughout.
Expected: docs/libsvm.md.
"""

from ml_collections import ConfigDict

from lrjax import config as config_lib
from lrjax.core import unknown

LIBSVM = ("iris", "wine", "vowel", "vehicle", "dna", "pendigits", "letter")
LIBSVM += ("sensorless", "aloi")
TASKS = {
    "libsvm": tuple(f"libsvm/{name}" for name in LIBSVM),
    "vision": ("cifar10/wrn16_2", "cifar100/densenet_bc", "dtd/vit_ti16"),
    "text": ("bookwiki/roberta_base",),
}
TASKS["all"] = TASKS["libsvm"] + TASKS["vision"] + TASKS["text"]
CORPUS = "hf:wikimedia/wikipedia:20231101.en,hf:bookcorpus/bookcorpus"

LEARNING_RATE_FREE = ("dadapt_adam", "prodigy", "cocob", "dowg")
METHODS = {
    "study": ("adam", "smac", "cawr", "cawr_tuned", *LEARNING_RATE_FREE),
    "sound": (
        *("adam", "adamw_cosine", "nadamw_cosine", "momentum", "cawr"),
        *(*LEARNING_RATE_FREE, "dog", "schedule_free_adamw", "hypergradient_adam"),
    ),
    "grid": ("adam", "adamw_cosine"),
}


def get_config(arg: str = "libsvm") -> ConfigDict:
    """Return the config of tasks and a treatment, such as `libsvm:sound`."""
    part, _, way = arg.partition(":")
    if part not in TASKS:
        raise unknown("part of the study", part, TASKS)
    if (way := way or "study") not in METHODS:
        raise unknown("way to repeat the study", way, METHODS)
    config = config_lib.base()
    config.tasks, config.methods = TASKS[part], METHODS[way]
    config.protocol = "study" if way == "study" else "sound"
    config.seeds = 10
    if way == "grid":
        config.grid.learning_rate = tuple(10 ** (-4 + 4 * i / 31) for i in range(32))
    if part in ("text", "all"):
        config.text.corpus = CORPUS
        config.text.fraction = 0.01
    if part == "text":
        config.seeds, config.eval_every, config.precision = 3, 500, "bfloat16"
    config.skip_missing = True
    config.report.after = True
    return config
