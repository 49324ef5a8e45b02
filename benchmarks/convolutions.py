r"""How to train several small convolutional networks at once: strategies compared.

  python benchmarks/convolutions.py [--runs=4] [--size=32] [--batch=64] [--json=FILE]

One step (loss, gradient, AdamW) of several WRN-10-1, each with its own weights and
batch, in six ways. In `loop` the host calls a program of one run for each; the others
are given as times of it. Programs that make several steps are timed per step. All take
turns; a figure is the median over turns of the ratio within a turn. Where PyTorch is
installed (benchmarks/requirements.txt) one step of the same network, channels last and
on all cores, is timed beside them. Takes two minutes on two cores.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lrjax.tasks.models import convolution  # noqa: E402
from lrjax.tasks.models.wide_resnet import WideResNet  # noqa: E402

DEPTH, WIDTH, CLASSES = 10, 1, 10
STEPS = 2  # of a program that makes several


def plain(images: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0):
    """XLA's convolution with its own derivatives."""
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def patches(images: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0):
    """Shifted copies side by side and one matrix product."""
    size = len(kernel)
    widths = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, widths)
    height = (padded.shape[1] - size) // stride + 1
    width = (padded.shape[2] - size) // stride + 1
    shifted = [
        padded[:, i : i + stride * height : stride, j : j + stride * width : stride]
        for i in range(size)
        for j in range(size)
    ]
    shifted = [x[:, :height, :width] for x in shifted]
    flat = kernel.reshape(-1, kernel.shape[-1])
    return jnp.concatenate(shifted, axis=-1) @ flat


def make_step() -> Callable[[Any, Any], Any]:
    """One update of one run: (state, batch) -> state."""
    model = WideResNet(depth=DEPTH, width=WIDTH, num_classes=CLASSES)
    tx = optax.adamw(1e-3)

    def step(state: Any, batch: Any) -> Any:
        params, stats, opt_state = state

        def loss(params: Any) -> Any:
            logits, new = model.apply(
                {"params": params, "batch_stats": stats},
                batch[0],
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
            return losses.mean(), new["batch_stats"]

        grads, new = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), new, opt_state

    return step


def initial(batch: Any) -> Any:
    """The state of one run."""
    model = WideResNet(depth=DEPTH, width=WIDTH, num_classes=CLASSES)
    variables = model.init(jax.random.key(0), batch[0][:1], train=False)
    params = variables["params"]
    return params, variables["batch_stats"], optax.adamw(1e-3).init(params)


def strategies(runs: int, batch: Any) -> Iterator[tuple[str, Callable[[], Any], float]]:
    """Name, job and the number of steps of all runs that a job makes."""
    states = [initial(batch) for _ in range(runs)]
    batches = [jax.tree.map(lambda x: x + 0, batch) for _ in range(runs)]
    stack = functools.partial(jax.tree.map, lambda *x: jnp.stack(x))
    together, several = stack(*states), stack(*batches)

    def with_(convolve: Any, make: Callable[[Any], Any], *args: Any) -> Any:
        """Compile with another convolution."""
        before, convolution.convolve = convolution.convolve, convolve
        try:
            return jax.jit(make(make_step())).lower(*args).compile()
        finally:
            convolution.convolve = before

    def mapped(step: Any) -> Any:
        return lambda states, batches: lax.map(lambda x: step(*x), (states, batches))

    def unrolled(step: Any) -> Any:
        return lambda *x: [step(s, b) for s, b in zip(*x, strict=True)]

    def scanned(step: Any) -> Any:
        def run(state: Any, batch: Any) -> Any:
            return lax.fori_loop(0, STEPS, lambda _, s: step(s, batch), state)

        return run

    ours = convolution.convolve
    for name, convolve in (("ours", ours), ("XLA's own", plain), ("patches", patches)):
        one = with_(convolve, lambda step: step, states[0], batches[0])

        def loop(one: Any = one) -> Any:
            return [one(s, b) for s, b in zip(states, batches, strict=True)]

        yield f"loop, {name}", loop, runs
        if name == "ours":
            continue
        vmapped = with_(convolve, jax.vmap, together, several)
        yield f"vmap, {name}", functools.partial(vmapped, together, several), runs
        scan = with_(convolve, scanned, states[0], batches[0])
        yield (
            f"steps in a program's loop, {name}",
            functools.partial(scan, states[0], batches[0]),
            STEPS,
        )
        if name == "XLA's own":
            job = with_(convolve, mapped, together, several)
            yield f"lax.map, {name}", functools.partial(job, together, several), runs
            job = with_(convolve, unrolled, states, batches)
            yield f"unrolled, {name}", functools.partial(job, states, batches), runs


def torch_step(batch: Any) -> Callable[[], Any]:
    """One step of the same network in PyTorch, channels-last, all cores."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.shortcut = None
            if inputs != outputs:
                self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

        def forward(self, x: Any) -> Any:
            out = functional.relu(self.norm1(x))
            x = x if self.shortcut is None else self.shortcut(out)
            out = functional.relu(self.norm2(self.conv1(out)))
            return x + self.conv2(out)

    layers: list[Any] = [nn.Conv2d(batch[0].shape[-1], 16, 3, 1, 1, bias=False)]
    inputs = 16
    for group, channels in enumerate((16, 32, 64)):
        for block in range((DEPTH - 4) // 6):
            stride = 2 if group and not block else 1
            layers.append(Block(inputs, channels * WIDTH, stride))
            inputs = channels * WIDTH
    layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    layers += [nn.Flatten(), nn.Linear(inputs, CLASSES)]
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    images = torch.tensor(np.asarray(batch[0])).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.tensor(np.asarray(batch[1]), dtype=torch.int64)

    def step() -> None:
        optimiser.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimiser.step()

    return step


def main() -> None:
    """Measure and print."""
    global DEPTH, WIDTH
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--size", type=int, default=32, help="height and width")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="", help="strategies with this in their name")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    args = parser.parse_args()
    DEPTH, WIDTH = args.depth, args.width
    rng = np.random.default_rng(0)
    shape = (args.batch, args.size, args.size, 3)
    batch = (
        jnp.asarray(rng.normal(size=shape), jnp.float32),
        jnp.asarray(rng.integers(CLASSES, size=args.batch), jnp.int32),
    )
    jobs = {
        name: (job, steps)
        for name, job, steps in strategies(args.runs, batch)
        if args.only in name or name == "loop, ours"
    }
    if importlib.util.find_spec("torch"):
        jobs["PyTorch, channels-last"] = (torch_step(batch), 1)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(args.turns + 1):
        for name, (job, steps) in jobs.items():
            began = time.perf_counter()
            jax.block_until_ready(job())
            if turn:
                times[name].append((time.perf_counter() - began) / steps)
    base = np.asarray(times["loop, ours"])
    print(
        f"WRN-{DEPTH}-{WIDTH}, {args.runs} runs, batch {args.batch}, {args.size} "
        f"pixels; {os.cpu_count()} cores, {jax.devices()[0].device_kind}, "
        f"JAX {jax.__version__}\n"
    )
    print("| strategy | ms a step and run | times 'loop, ours' |\n|---|---|---|")
    for name, spent in times.items():
        ratio = np.asarray(spent) / base
        print(
            f"| {name} | {np.median(spent) * 1e3:.3g} | {np.median(ratio):.3g} "
            f"({ratio.min():.3g} to {ratio.max():.3g}) |"
        )
    if args.json:
        args.json.write_text(json.dumps(times, indent=1) + "\n")


if __name__ == "__main__":
    main()
