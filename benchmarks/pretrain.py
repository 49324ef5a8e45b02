r"""Pre-train the small RoBERTa that comes with lrjax, lrjax/tasks/checkpoint/.

  python benchmarks/pretrain.py --out=FOLDER [--steps=2200]

Text: the reference that comes with Python (pydoc_data.topics), and the docstrings of
those modules of its library that `finetune/roberta_tiny` does not classify. The task is
the one of `bookwiki/roberta_tiny`, masked language modelling under `sound`, with a
narrower network, shorter rows and fewer tokens, so that weights, in half precision, and
tokenizer take 1.5 MB. AdamW, warm-up over a twentieth, cosine to 0.

Takes about ten minutes of two cores. The file in the package is of Python 3.11;
other versions have other docstrings.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lrjax.common import numerics
from lrjax.core import Task
from lrjax.tasks import TaskOptions, checkpoints, docstrings, models
from lrjax.tasks.options import Text
from lrjax.tasks.text import rows_of, text_task
from lrjax.tasks.tokens import Tokens, load_tokens

VOCABULARY, LENGTH, BATCH = 2048, 64, 16
MODEL = {
    "hidden_size": 96,
    "num_layers": 4,
    "num_heads": 4,
    "intermediate_size": 384,
    "max_positions": 130,
    "dropout": 0.0,
}
RATE, SEED = 1e-3, 0
_LEFT_OUT = ("test", "lib2to3", "pydoc_data")


def texts() -> Iterator[str]:
    """Yield the documents, one by one."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield from topics[name].split("\n\n")
    classified = set(itertools.chain(*map(str.split, docstrings.TOPICS.values())))
    library = Path(sysconfig.get_path("stdlib"))
    found = {path.name.removesuffix(".py") for path in library.iterdir()}
    names = sorted(name for name in found if name.isidentifier())
    for name in names:
        if name not in classified and name not in _LEFT_OUT:
            yield from docstrings.of_modules([name])


def make_task(model: models.Roberta) -> tuple[Task, Tokens]:
    """The task of pre-training, and the corpus with its tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library.txt"
        path.write_text("\n\n".join(texts()), encoding="utf-8")
        text = Text(corpus=str(path))
        corpus = load_tokens(text, None, VOCABULARY, own=True, embedded=False)
    rows = rows_of("pretraining", corpus, LENGTH)
    size, mask = corpus.vocabulary.size, corpus.vocabulary.mask
    options = TaskOptions(batch_size=BATCH)
    return text_task("pretraining", rows, model, size, mask, options), corpus


def main() -> None:
    """Train, say how it goes, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2200)
    args = parser.parse_args()
    model = models.Roberta(VOCABULARY, **MODEL)
    task, corpus = make_task(model)
    warmup = max(args.steps // 20, 1)
    rate = optax.warmup_cosine_decay_schedule(0, RATE, warmup, args.steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(task.max_norm), optax.adamw(rate, b2=0.98)
    )
    key = numerics.key(SEED)
    params, state = jax.jit(task.init)(jax.random.fold_in(key, args.steps))
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, number, rows):
        batch = {name: values[rows] for name, values in task.train.items()}
        batch["mask"] = jnp.ones(BATCH)

        def loss(params):
            return task.loss(params, state, jax.random.fold_in(key, number), batch)[0]

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    @jax.jit
    def validate(params, rows):
        mask = jnp.ones(len(rows["tokens"]))
        sums = task.evaluate(params, state, {**rows, "mask": mask})
        return sums["loss"] / sums["count"]

    drawn = np.random.RandomState(SEED)
    order = np.empty(0, int)
    for number in range(args.steps):
        if len(order) < BATCH:
            order = drawn.permutation(task.num_examples)
        rows, order = order[:BATCH], order[BATCH:]
        params, opt_state, value = step(params, opt_state, number, rows)
        if number % 250 == 0 or number + 1 == args.steps:
            print(
                number + 1,
                float(value),
                float(validate(params, task.valid)),
                file=sys.stderr,
            )
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoints.write(args.out, model, params, corpus.vocabulary, np.float16)


if __name__ == "__main__":
    main()
