"""The same by hand: a loop over optimisers and seeds in PyTorch, with prodigyopt."""

import numpy as np
import torch
from data import load
from prodigyopt import Prodigy
from torch import nn

(x, y), (xv, yv) = ((torch.tensor(a), torch.tensor(b).long()) for a, b in load())
epochs, size = 30, 64
steps = epochs * (len(x) // size)


def adamw_cosine(params):
    tx = torch.optim.AdamW(params, 1e-3)
    return tx, torch.optim.lr_scheduler.CosineAnnealingLR(tx, steps)


methods = {
    "adam": lambda params: (torch.optim.Adam(params, 1e-3), None),
    "adamw_cosine": adamw_cosine,
    "prodigy": lambda params: (Prodigy(params), None),
}


def train(method, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
    tx, schedule = method(model.parameters())
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // size * size].view(-1, size):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            tx.zero_grad()
            loss.backward()
            tx.step()
            if schedule:
                schedule.step()
    with torch.no_grad():
        logits = model(xv)
        loss = nn.functional.cross_entropy(logits, yv).item()
        return loss, (logits.argmax(1) == yv).float().mean().item()


for name, method in methods.items():
    found = np.array([train(method, seed) for seed in range(10)])
    mean, error = found.mean(0), found.std(0, ddof=1) / np.sqrt(len(found))
    print(f"{name:14} accuracy {mean[1]:.3f} +- {2 * error[1]:.3f} loss {mean[0]:.3f}")
