r"""Tokens per second of RoBERTa's training step, and what packing and masking save.

  python benchmarks/text.py [--task=bookwiki/roberta_tiny] [--precision=bfloat16]
      [--batch=16] [--peak=989] [--steps=10] [--turns=5] [--json=FILE]

Documents are as long as sentences (lognormal, 20 tokens in the median) and made of
noise. A step is masking, loss, gradient, clipping and AdamW. Real tokens count, not
padding:

- packed: documents packed into rows, the projection onto the vocabulary at masked
  positions only; what `sound` does;
- padded: a row for each document, as in `study`, but without dropout of attention;
- whole projection: as packed, with logits of every position;
- PyTorch (left out where it is not installed): Hugging Face's RobertaForMaskedLM on
  full rows of one document each, in as many threads as there are cores; with logits of
  every position, as it comes, and of masked positions only.

Sides take turns; figures are medians over turns, ratios medians of the turns' ratios.
Floating-point operations are those that XLA counts; `--peak` is the device's, in
TFLOP/s.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import noise, steps
from lrjax import optim
from lrjax.core import Task
from lrjax.launch import startup
from lrjax.tasks import TaskOptions, text
from lrjax.tasks.tokens import PAD


@dataclasses.dataclass(frozen=True)
class WholeProjection:
    """A model that computes logits of every position, whichever are wanted."""

    model: Any

    def init(self, *args: Any, **options: Any) -> Any:
        """As the model."""
        return self.model.init(*args, **options)

    def apply(self, *args: Any, at: jax.Array, **options: Any) -> jax.Array:
        """As the model, but for the cost."""
        logits = self.model.apply(*args, **options)
        return jnp.take_along_axis(logits, at[:, :, None], axis=1)


class Side:
    """Steps of lrjax on one batch.

    Attributes:
      tokens: real ones of a batch.
      flops: of loss and gradient, as XLA counts them; NaN where it does not.
    """

    def __init__(self, task: Task) -> None:
        self._tx = optax.chain(
            optax.clip_by_global_norm(1.0), optim.adamw(1e-4, weight_decay=0.01)
        )
        batch = task.train | {"mask": jnp.ones(task.batch_size)}
        self.tokens = int((task.train["tokens"] != PAD).sum())
        grad = jax.value_and_grad(lambda *args: task.loss(*args)[0])
        params, model_state = jax.jit(task.init)(jax.random.key(0))

        def step(params: Any, opt_state: Any, number: int):
            key = jax.random.fold_in(jax.random.key(1), number)
            loss, grads = grad(params, model_state, key, batch)
            updates, opt_state = self._tx.update(grads, opt_state, params)
            params = jax.tree.map(jnp.add, params, updates)
            return params, opt_state, loss

        self._state = params, self._tx.init(params)
        self._step = (
            jax.jit(step, donate_argnums=(0, 1)).lower(*self._state, 0).compile()
        )
        counted = self._step.cost_analysis() or {}
        self.flops = float(counted.get("flops", float("nan")))

    def run(self, steps: int) -> None:
        """Make some steps."""
        loss = None
        for number in range(steps):
            *state, loss = self._step(*self._state, number)
            self._state = tuple(state)
        jax.block_until_ready(loss)


class TorchSide:
    """Steps of Hugging Face's model in PyTorch on full rows."""

    flops = float("nan")

    def __init__(self, recipe: text.Recipe, batch_size: int, whole: bool) -> None:
        import torch
        from transformers import RobertaConfig, RobertaForMaskedLM

        torch.set_num_threads(os.cpu_count() or 1)
        self._torch, self._whole = torch, whole
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        config = RobertaConfig(
            vocab_size=recipe.vocab_size,
            hidden_size=recipe.hidden_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            intermediate_size=recipe.intermediate_size,
            max_position_embeddings=recipe.length + 2,
            type_vocab_size=1,
            hidden_dropout_prob=recipe.dropout,
            attention_probs_dropout_prob=0.0,
        )
        self._model = RobertaForMaskedLM(config).to(self._device).train()
        self._optimiser = torch.optim.AdamW(self._model.parameters(), lr=1e-4)
        shape = (batch_size, recipe.length)
        self._ids = torch.randint(5, recipe.vocab_size, shape, device=self._device)
        self.tokens = self._ids.numel()

    def run(self, steps: int) -> None:
        """Make some steps."""
        torch = self._torch
        loss = None
        for _ in range(steps):
            chosen = torch.rand(self._ids.shape, device=self._device) < text.MASKED
            shown = torch.where(chosen, noise.MASK_TOKEN, self._ids)
            if self._whole:
                labels = torch.where(chosen, self._ids, -100)
                loss = self._model(input_ids=shown, labels=labels).loss
            else:
                hidden = self._model.roberta(shown)[0][chosen]
                logits = self._model.lm_head(hidden)
                loss = torch.nn.functional.cross_entropy(logits, self._ids[chosen])
            self._optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimiser.step()
        if loss is not None:
            loss.item()


def make_sides(name: str, batch_size: int, precision: str) -> dict[str, Any]:
    """All sides, compiled."""
    recipe = text.RECIPES[name]
    options = TaskOptions(batch_size=batch_size, precision=precision)
    made = {}
    for kind in ("packed", "padded", "whole projection"):
        part = noise.rows_of_noise(recipe, batch_size, packed=kind != "padded")
        rows = {"train": part, "valid": part[:1]}
        task = text.recipe_task(
            name, rows, recipe.vocab_size, noise.MASK_TOKEN, options
        )
        if kind == "whole projection":
            model = WholeProjection(text.make_model(name, options))
            task = text.text_task(
                name, rows, model, recipe.vocab_size, noise.MASK_TOKEN, options
            )
        made[kind] = Side(task)
    try:
        made["PyTorch"] = TorchSide(recipe, batch_size, whole=True)
        made["PyTorch, masked"] = TorchSide(recipe, batch_size, whole=False)
    except ImportError:
        print("PyTorch is not installed: left out\n")
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="bookwiki/roberta_tiny")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch", type=int, help="rows; the task's own if not given")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    args = parser.parse_args()
    recipe = text.RECIPES[args.task]
    batch_size = args.batch or recipe.batch_size
    startup.keep_freed_memory([args.task])  # as main.py does
    print(
        f"{args.task}, {batch_size} rows of {recipe.length}, {args.precision}; "
        f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}, JAX "
        f"{jax.__version__}\n"
    )
    sides = make_sides(args.task, batch_size, args.precision)
    for side in sides.values():
        side.run(2)
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.turns):
        for name, side in sides.items():
            spent[name].append(steps.timed(lambda side=side: side.run(args.steps)))
    print(
        "| side | ms a step | real tokens | real tokens/s | TFLOP/s | share of peak | "
        "rate of packed over this one |\n|---|---|---|---|---|---|---|"
    )
    table = []
    packed = np.asarray(spent["packed"])
    for name, side in sides.items():
        seconds = np.asarray(spent[name]) / args.steps
        step = float(np.median(seconds))
        ratio = float(np.median(np.asarray(spent[name]) / packed))
        ratio *= sides["packed"].tokens / side.tokens
        speed = side.flops / step / 1e12
        share = f"{speed / args.peak:.1%}" if args.peak else "-"
        print(
            f"| {name} | {1e3 * step:.4g} | {side.tokens:,} | "
            f"{side.tokens / step:,.0f} | {speed:.3g} | {share} | {ratio:.2f} |",
            flush=True,
        )
        table.append(
            {
                "side": name,
                "step_seconds": step,
                "tokens": side.tokens,
                "step_flops": side.flops,
                "packed_over_this": ratio,
            }
        )
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
