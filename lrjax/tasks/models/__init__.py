"""Models: logistic regression as functions, the others as linen modules.

Modules are imported on first use, because importing Flax is slow.
"""

import importlib
from typing import Any

_HOMES = {
    "DenseNet": "densenet",
    "LSTM": "lstm",
    "MLPDenoiser": "denoiser",
    "Perceptron": "perceptron",
    "GPT": "gpt",
    "Roberta": "roberta",
    "SmallCNN": "small_cnn",
    "UNet": "denoiser",
    "VisionTransformer": "vit",
    "WideResNet": "wide_resnet",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
