"""Make models.npz: what the vision models give in PyTorch, from weights by name.

Needs the packages of requirements.txt, which the tests do not:
    python tests/golden/make_models.py

Everything is computed in float64. Per case: 'eval', logits in evaluation mode;
'train', logits in training mode of the same rows; 'loss', their mean cross-entropy;
'stats/<name>', running statistics after that step; 'grads', of each parameter its
gradient's norm and its product with random numbers; and in the JSON string 'cases' the
shape of each layer's output, the number of parameters, and the standard deviation and
the largest size that each parameter starts with.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch_models
import weights
from torch import nn

# name -> model, rows, size of the images, classes
CASES = {
    "wrn16_2": (lambda: torch_models.WideResNet(16, 2, 10, 0.3), 2, 32, 10),
    "densenet_bc": (
        lambda: torch_models.DenseNet((6, 12, 24, 16), 12, 0.5, 100),
        2,
        32,
        100,
    ),
    "vit_ti16": (
        lambda: torch_models.VisionTransformer(224, 16, 192, 12, 3, 47),
        1,
        224,
        47,
    ),
    "wrn10_2": (lambda: torch_models.WideResNet(10, 2, 10), 5, 8, 10),
    "densenet_small": (lambda: torch_models.DenseNet((2, 3), 6, 0.5, 10), 5, 9, 10),
    "vit_small": (lambda: torch_models.VisionTransformer(8, 4, 24, 2, 3, 10), 5, 8, 10),
    "small_cnn": (lambda: torch_models.SmallCNN(9, 10), 5, 9, 10),
}
WHOLE = {"wrn16_2", "densenet_bc", "vit_ti16"}  # full-sized: evaluation only


def load(model: nn.Module) -> None:
    """Set every parameter and running statistic by its name."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                value.copy_(torch.from_numpy(weights.weight(name, tuple(value.shape))))


def layers(model: nn.Module, images: torch.Tensor) -> dict[str, list[int]]:
    """Shape of what each layer with parameters gives, without rows, channels last."""
    shapes = {}

    def note(name):
        def hook(module, inputs, output):
            shape = list(output.shape[1:])
            shapes[name] = shape[1:] + shape[:1] if output.ndim == 4 else shape

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear | nn.LayerNorm)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return shapes


def main() -> None:
    """Write models.npz beside this file."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    arrays: dict[str, np.ndarray] = {}
    cases = {}
    for name, (make, rows, size, classes) in CASES.items():
        model = make()
        starts = {
            k: (float(p.std(correction=0)), float(p.abs().max()))
            for k, p in model.named_parameters()
        }
        load(model)
        x = torch.from_numpy(weights.images(rows, size)).permute(0, 3, 1, 2)
        y = torch.from_numpy(weights.labels(rows, classes))
        model.eval()
        cases[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "layers": layers(model, x),
            "starts": {} if name in WHOLE else starts,
        }
        with torch.no_grad():
            arrays[f"{name}/eval"] = model(x).numpy()
        if name in WHOLE:
            continue
        model.train()
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, y)
        loss.backward()
        arrays[f"{name}/train"] = logits.detach().numpy()
        arrays[f"{name}/loss"] = loss.detach().numpy()
        for key, value in model.named_buffers():
            if not key.endswith("num_batches_tracked"):
                arrays[f"{name}/stats/{key}"] = value.numpy()
        arrays[f"{name}/grads"] = np.array(
            [
                [p.grad.norm(), (p.grad.numpy() * weights.normal(k, p.shape)).sum()]
                for k, p in model.named_parameters()
            ]
        )
        cases[name]["names"] = [k for k, _ in model.named_parameters()]
    arrays["cases"] = np.array(json.dumps(cases))
    arrays["versions"] = np.array(json.dumps({"torch": torch.__version__}))
    np.savez_compressed(Path(__file__).with_name("models.npz"), **arrays)


if __name__ == "__main__":
    main()
