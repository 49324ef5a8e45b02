"""Data of the comparison: 10,000 rows, 20 features, two classes."""

import numpy as np


def load():
    """Return features and labels for training (8,000 rows) and for validation."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(10_000, 20)).astype(np.float32)
    y = ((x[:, ::2] * x[:, 1::2]).sum(1) + x[:, 12] > 0).astype(np.int32)
    return (x[:8000], y[:8000]), (x[8000:], y[8000:])
