"""Make schedules.npz: learning rates from PyTorch's and others' schedulers.

Needs the packages of requirements.txt, which the tests do not:
    python tests/golden/make_schedules.py

Each array holds the learning rates of updates 0, 1, 2, ...; `cases` is a JSON list
with, per array, the schedule of lrjax and its arguments that should give the same.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytorch_optimizer
import torch
from scipy import ndimage
from torch.optim import lr_scheduler
from transformers import optimization

LR = 0.3
STEPS = 150


def learning_rates(make: Callable, steps: int) -> np.ndarray:
    """Values of the scheduler that `make` puts on an optimizer, before each step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = make(optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(values, np.float64)


def rex(optimizer: torch.optim.Optimizer) -> object:
    """REX of pytorch_optimizer, with the first value, which it computes, in place."""
    scheduler = pytorch_optimizer.REXScheduler(optimizer, 60, max_lr=LR, min_lr=0.01)
    optimizer.param_groups[0]["lr"] = scheduler.get_lr()
    return scheduler


def sequential(optimizer: torch.optim.Optimizer) -> object:
    """Linear warm-up from a tenth over 10 steps, then a cosine over 50."""
    ramp = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    wave = lr_scheduler.CosineAnnealingLR(optimizer, 50)
    return lr_scheduler.SequentialLR(optimizer, [ramp, wave], [10])


def one_cycle(steps: int, **kwargs: float) -> Callable:
    """PyTorch's OneCycleLR; SGD without momentum has none to cycle."""
    return lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, LR, total_steps=steps, cycle_momentum=False, **kwargs
    )


def restarts(*args: float) -> Callable:
    """PyTorch's CosineAnnealingWarmRestarts with T_0, T_mult, eta_min."""
    return lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, *args)


def wsd(warmup_steps: int, final: float, decay_type: str = "linear") -> Callable:
    """Warm-up, plateau and decay of Transformers, over 100 steps."""
    return lambda optimizer: optimization.get_wsd_schedule(
        optimizer,
        num_warmup_steps=warmup_steps,
        num_decay_steps=20,
        num_training_steps=100,
        decay_type=decay_type,
        min_lr_ratio=final,
    )


def law(factor: Callable) -> Callable:
    """A closed form from the paper."""
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, factor)


def power_law(step: int) -> float:
    """Shen et al. (2024): a power law below a plateau, and a linear decay."""
    return min(1.0, (step / 20) ** -0.51 if step else 1.0) * max(
        0.0, min(1.0, (100 - step) / 30)
    )


def refined(norms: np.ndarray, smoothing: float, power: float) -> Callable:
    """Defazio et al. (2023), with sums as they are written and SciPy's median filter.

    Not official code: facebookresearch/adaptive_scheduling is no package.
    """
    width = 2 * (int(smoothing * len(norms)) // 2) + 1
    padded = np.pad(norms, (0, 2 * width), mode="reflect")
    smooth = ndimage.median_filter(padded, size=width, mode="nearest")[: len(norms)]
    weights = smooth**-power
    rates = [w * weights[i + 1 :].sum() for i, w in enumerate(weights)]
    return lambda step: rates[min(step, len(norms) - 1)] / max(rates)


NORMS = (
    np.random.default_rng(7).gamma(4.0, 1 / 4, 80)
    * np.r_[np.linspace(5, 1, 20), np.linspace(1, 2, 60)]
)

# schedule of lrjax, its arguments after learning_rate, scheduler, number of steps
CASES = [
    ("constant", {}, lambda o: lr_scheduler.ConstantLR(o, 1.0), STEPS),
    (
        "linear",
        {"horizon": 60, "final_learning_rate": 0.03},
        lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, 60),
        STEPS,
    ),
    # CosineAnnealingLR rises again after T_max.
    ("cosine", {"horizon": 60}, lambda o: lr_scheduler.CosineAnnealingLR(o, 60), 61),
    (
        "cosine",
        {"horizon": 60, "final_learning_rate": 0.02},
        lambda o: lr_scheduler.CosineAnnealingLR(o, 60, 0.02),
        61,
    ),
    ("cosine_warm_restarts", {"T_0": 10, "t_mult": 2}, restarts(10, 2), STEPS),
    (
        "cosine_warm_restarts",
        {"T_0": 4, "t_mult": 3, "eta_min": 0.4},
        restarts(4, 3, 0.4),
        STEPS,
    ),
    ("cosine_warm_restarts", {"T_0": 7, "eta_min": 0.01}, restarts(7, 1, 0.01), STEPS),
    ("cosine_warm_restarts", {"T_0": 1, "t_mult": 2}, restarts(1, 2), STEPS),
    ("cosine_warm_restarts", {"T_0": 1}, restarts(1, 1), STEPS),
    ("step", {"step_size": 7}, lambda o: lr_scheduler.StepLR(o, 7), STEPS),
    (
        "step",
        {"step_size": 1, "gamma": 0.9},
        lambda o: lr_scheduler.StepLR(o, 1, 0.9),
        STEPS,
    ),
    (
        "exponential",
        {"gamma": 0.95},
        lambda o: lr_scheduler.ExponentialLR(o, 0.95),
        STEPS,
    ),
    (
        "polynomial",
        {"horizon": 60, "power": 2.5},
        lambda o: lr_scheduler.PolynomialLR(o, 60, 2.5),
        STEPS,
    ),
    (
        "polynomial",
        {"horizon": 60, "power": 0.5},
        lambda o: lr_scheduler.PolynomialLR(o, 60, 0.5),
        STEPS,
    ),
    ("one_cycle", {"horizon": 100}, one_cycle(100), 100),
    (
        "one_cycle",
        {"horizon": 7, "pct_start": 0.4, "div_factor": 5.0, "final_div_factor": 20.0},
        one_cycle(7, pct_start=0.4, div_factor=5.0, final_div_factor=20.0),
        7,
    ),
    # The peak would come before the first step.
    ("one_cycle", {"horizon": 3, "pct_start": 0.1}, one_cycle(3, pct_start=0.1), 3),
    (
        "inverse_sqrt",
        {"timescale": 30},
        lambda o: optimization.get_inverse_sqrt_schedule(o, 0, timescale=30),
        STEPS,
    ),
    (
        "inverse_sqrt",
        {"timescale": 20, "warmup_steps": 20},
        lambda o: optimization.get_inverse_sqrt_schedule(o, 20),
        STEPS,
    ),
    (
        "warmup_stable_decay",
        {"horizon": 100, "warmup_steps": 10, "decay_steps": 20},
        wsd(10, 0.0),
        STEPS,
    ),
    (
        "warmup_stable_decay",
        {
            "horizon": 100,
            "warmup_steps": 0,
            "decay_steps": 20,
            "final_learning_rate": 0.03,
        },
        wsd(0, 0.1),
        STEPS,
    ),
    ("rex", {"horizon": 60, "final_learning_rate": 0.01}, rex, STEPS),
    (
        "cosine",
        {"horizon": 50, "warmup_steps": 10, "initial_learning_rate": 0.03},
        sequential,
        61,
    ),
    (
        "cosine",
        {"horizon": 50, "warmup_steps": 10},
        lambda o: optimization.get_cosine_schedule_with_warmup(o, 10, 60),
        61,
    ),
    (
        "warmup_stable_decay",
        {
            "horizon": 100,
            "warmup_steps": 0,
            "decay_steps": 20,
            "final_learning_rate": 0.03,
            "decay_power": 0.5,
        },
        wsd(0, 0.1, "1-sqrt"),
        STEPS,
    ),
    (
        "power",
        {"horizon": 100, "timescale": 20, "decay_steps": 30},
        law(power_law),
        STEPS,
    ),
    (
        "inverse_power",
        {"timescale": 30, "power": 0.75},
        law(lambda step: (1 + step / 30) ** -0.75),
        STEPS,
    ),
    (
        "refined",
        {"horizon": 80, "gradient_norms": NORMS.tolist()},
        law(refined(NORMS, 0.1, 2)),
        STEPS,
    ),
    (
        "refined",
        {
            "horizon": 80,
            "gradient_norms": NORMS.tolist(),
            "smoothing": 0.3,
            "power": 1,
        },
        law(refined(NORMS, 0.3, 1)),
        STEPS,
    ),
]


def main() -> None:
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
    arrays = {
        f"values_{i}": learning_rates(make, steps)
        for i, (_, _, make, steps) in enumerate(CASES)
    }
    cases = [
        {"schedule": name, "kwargs": {"learning_rate": LR} | kwargs}
        for name, kwargs, _, _ in CASES
    ]
    packages = ("torch", "transformers", "pytorch-optimizer", "numpy")
    versions = {name: metadata.version(name) for name in packages}
    np.savez_compressed(
        Path(__file__).with_name("schedules.npz"),
        cases=np.array(json.dumps(cases)),
        versions=np.array(json.dumps(versions)),
        **arrays,
    )


if __name__ == "__main__":
    main()
