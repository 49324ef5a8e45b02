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


class DenseLayer(nn.Module):
    """Bottleneck of DenseNet-B; its output is appended to its input."""

    def __init__(self, inputs: int, growth: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, 4 * growth, 1)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = conv(4 * growth, growth, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, channels, height, width] to the same with more channels."""
        out = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(out)))], 1)


class DenseNet(nn.Module):
    """DenseNet-BC, whose transitions have no ReLU."""

    def __init__(
        self, blocks: tuple[int, ...], growth: int, reduction: float, classes: int
    ):
        super().__init__()
        channels = 2 * growth
        self.conv = conv(3, channels, 3)
        self.path = []
        for block, layers in enumerate(blocks, 1):
            if block > 1:
                kept = int(reduction * channels)
                norm, thin = (
                    f"transition{block - 1}_norm",
                    f"transition{block - 1}_conv",
                )
                self.add_module(norm, nn.BatchNorm2d(channels))
                self.add_module(thin, conv(channels, kept, 1))
                self.path += [norm, thin, "pool"]
                channels = kept
            for layer in range(1, layers + 1):
                self.path.append(f"block{block}_layer{layer}")
                self.add_module(self.path[-1], DenseLayer(channels, growth))
                channels += growth
        self.pool = nn.AvgPool2d(2)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images [rows, 3, height, width]."""
        x = self.conv(x)
        for name in self.path:
            x = getattr(self, name)(x)
        return self.classifier(F.relu(self.norm(x)).mean((2, 3)))


class TransformerBlock(nn.Module):
    """Pre-norm attention and perceptron."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, tokens, dim] to the same."""
        rows, tokens, dim = x.shape
        parts = self.qkv(self.norm1(x)).view(rows, tokens, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / (dim // self.heads) ** 0.5
        out = (scores.softmax(-1) @ value).transpose(1, 2).reshape(x.shape)
        x = x + self.projection(out)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    """timm's `vit_*_patch*` from scratch, read at the class token."""

    def __init__(
        self, size: int, patch: int, dim: int, depth: int, heads: int, classes: int
    ):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, dim) * 1e-6)
        tokens = (size // patch) ** 2 + 1
        self.position = nn.Parameter(torch.randn(1, tokens, dim) * 0.02)
        self.depth = depth
        for block in range(1, depth + 1):
            self.add_module(f"block{block}", TransformerBlock(dim, heads))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.classifier = nn.Linear(dim, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images [rows, 3, size, size]."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for block in range(1, self.depth + 1):
            x = getattr(self, f"block{block}")(x)
        return self.classifier(self.norm(x[:, 0]))


class SmallCNN(nn.Module):
    """Two convolutions with maxima of 2 x 2 pixels, and a linear layer."""

    def __init__(self, size: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.classifier = nn.Linear(32 * (size // 4) ** 2, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images [rows, 3, size, size]."""
        for layer in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(layer(x)), 2)
        # Channels last before flattening, so that weights need no other order.
        return self.classifier(x.permute(0, 2, 3, 1).flatten(1))
