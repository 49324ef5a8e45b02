"""The vision models in PyTorch, written out; modules are named as lrjax names them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 -- its usual name


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size of an image where stride is 1."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class WideBlock(nn.Module):
    """Pre-activation block; a 1 x 1 shortcut where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, channels, height, width] to the same with other sizes."""
        out = F.relu(self.norm1(x))
        through = x if self.shortcut is None else self.shortcut(out)
        out = F.relu(self.norm2(self.conv1(out)))
        out = F.dropout(out, self.dropout, self.training)
        return through + self.conv2(out)


class WideResNet(nn.Module):
    """WRN-depth-width with He's normal start over the fan out."""

    def __init__(self, depth: int, width: int, classes: int, dropout: float = 0.0):
        super().__init__()
        self.conv = conv(3, 16, 3)
        inputs, blocks = 16, []
        for group, base in enumerate((16, 32, 64), 1):
            for block in range(1, (depth - 4) // 6 + 1):
                stride = 2 if group > 1 and block == 1 else 1
                blocks.append(f"group{group}_block{block}")
                layer = WideBlock(inputs, base * width, stride, dropout)
                self.add_module(blocks[-1], layer)
                inputs = base * width
        self.blocks = blocks
        self.norm = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images [rows, 3, height, width]."""
        x = self.conv(x)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.classifier(F.relu(self.norm(x)).mean((2, 3)))
