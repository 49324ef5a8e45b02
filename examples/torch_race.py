r"""Which optimiser suits a training loop of PyTorch? A race finds out, run by run.

python examples/torch_race.py

It needs torch, prodigyopt and schedulefree. Stop it and start it again: it goes on.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import lrjax

pixels, labels = map(torch.tensor, load_digits(return_X_y=True))
# Second runs of the leaders are judged on other rows: `job.fold` says on which.
options = {"metric": "accuracy", "folds": 4, "valid_rows": len(labels) // 4}
methods = ["momentum", "adamw_cosine", "prodigy", "schedule_free_adamw"]
race = lrjax.Race(methods, budget=8, horizon=300, folder="race", **options)
for job in race:
    torch.manual_seed(job.seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer, scheduler = job.torch(model.parameters())
    averages = hasattr(optimizer, "eval")  # schedule-free: evaluates other weights
    if averages:
        optimizer.train()
    valid = torch.arange(len(labels)) % 4 == job.fold
    for _ in range(job.stop):
        rows = torch.randperm(len(labels))[:64]
        rows = rows[~valid[rows]]
        logits = model(pixels[rows].float())
        nn.functional.cross_entropy(logits, labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    if averages:
        optimizer.eval()
    right = model(pixels[valid].float()).argmax(1) == labels[valid]
    job.tell(accuracy=right.float().mean())
print(race.answer())
