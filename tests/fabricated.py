"""Tables of studies that nobody ran."""

import hashlib
import json

import numpy as np

METHODS = {  # name -> how many epochs it takes to learn, where it ends, its rate
    "sgd": (30, 0.30, 0.1),
    "momentum": (6, 0.12, 0.1),
    "adam": (25, 0.25, 1e-3),
    "adamw_cosine": (9, 0.16, 0.03),
    "nadamw_cosine": (9, 0.17, 0.03),
    "cawr": (15, 0.24, 5e-3),
    "dadapt_adam": (5, 0.21, 0.4),
    "prodigy": (4, 0.15, 0.2),
    "cocob": (8, 0.18, None),
    "dowg": (5, 0.22, 10.0),
}
LIBSVM = ("iris", "wine", "vowel", "vehicle", "dna", "pendigits", "letter")
LIBSVM = tuple(f"libsvm/{name}" for name in (*LIBSVM, "sensorless", "aloi"))


def runs_and_curves(
    tasks,
    methods,
    seeds,
    epochs=20,
    rates=None,
    diverged=(),
    missing=(),
    metric="accuracy",
):
    """Rows of runs.jsonl and of curves.jsonl.

    Args:
      tasks, methods: names.
      seeds: how many.
      epochs: of each run.
      rates: of a grid: method -> its learning rates.
      diverged, missing: (task, method, seed).
      metric: accuracy, loss or perplexity.
    """
    runs, curves = [], []
    for task in tasks:
        for method in methods:
            for seed in range(seeds):
                for rate in (rates or {}).get(method, (None,)):
                    if (task, method, seed) not in missing:
                        dead = (task, method, seed) in diverged
                        key = f"{task} {method} {seed} {rate}"
                        run, rows = one(key, task, method, seed, epochs, rate, dead)
                        for row in (run, *rows):
                            _judged_by(metric, row)
                        runs.append(run)
                        curves += rows
    return runs, curves


def one(key, task, method, seed, epochs, rate, dead):
    """A run and its curve."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    rng = np.random.default_rng(int(digest[:8], 16))
    hard = np.random.default_rng(sum(task.encode("utf-8", "surrogatepass"))).uniform(
        0.5, 2
    )
    time, end, own = METHODS.get(method, (10, 0.2, 0.01))
    if rate is not None:  # worse by the square of the distance to the best, in decades
        end, own = end + 0.2 * (np.log10(rate) - np.log10(own or 1)) ** 2, rate
    end *= hard * rng.uniform(0.9, 1.1)
    epoch = np.arange(1, epochs + 1)
    loss = end + 1.5 * np.exp(-epoch * 20 / epochs / time)
    loss = loss * rng.uniform(0.97, 1.03, epochs)
    schedule = (1 + np.cos(np.pi * epoch / epochs)) / 2 + 1e-6
    rate = own if own is None else own * (schedule if "cos" in method else 1 + 0 * loss)
    alive = epochs // 2 if dead else epochs
    rows = [
        {
            "run_id": digest[:16],
            "step": 10 * int(e),
            "epoch": float(e),
            "train_loss": round(float(loss[e - 1] * 0.8), 9) if e <= alive else None,
            "valid_loss": round(float(loss[e - 1]), 9) if e <= alive else None,
            "valid_accuracy": round(float(np.exp(-loss[e - 1])), 3)
            if e <= alive
            else None,
            "learning_rate": None
            if rate is None or e > alive
            else round(float(rate[e - 1]), 12),
        }
        for e in epoch[: alive + 1]
    ]
    run = {
        "run_id": digest[:16],
        "task": task,
        "protocol": "sound",
        "method": method,
        "hparams": {"learning_rate": own},
        "seed": seed,
        "steps": 10 * epochs,
        "horizon": 10 * epochs,
        "status": "diverged" if dead else "done",
        "diverged_at": 10 * alive + 1 if dead else None,
        **{k: rows[-1][k] for k in ("train_loss", "valid_loss", "valid_accuracy")},
        "test_loss": rows[-1]["valid_loss"],
        "test_accuracy": rows[-1]["valid_accuracy"],
        "learning_rate": rows[-1]["learning_rate"],
        "seconds": 0.01 * (1 + len(method) % 4),
        "examples": 640 * epochs,
        "block": "5x1",
    }
    return run, rows


def _judged_by(metric, row):
    for part in ("valid", "test"):
        accuracy = f"{part}_accuracy"
        if metric != "accuracy" and accuracy in row:
            del row[accuracy]
            if metric == "perplexity" and part == "valid":
                loss = row["valid_loss"]
                row["valid_perplexity"] = None if loss is None else float(np.exp(loss))


def write(workdir, *arguments, trials=(), config=None, **options):
    """Write the tables of such a study; give the directory."""
    workdir.mkdir(parents=True, exist_ok=True)
    runs, curves = runs_and_curves(*arguments, **options)
    lines(workdir / "runs.jsonl", runs)
    lines(workdir / "curves.jsonl", curves)
    if trials:
        lines(workdir / "trials.jsonl", trials)
    if config is not None:
        (workdir / "config.json").write_text(json.dumps(config))
    return workdir


def lines(path, rows):
    """Write a table."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def trials(tasks, method, count=20):
    """Rows of trials.jsonl: cheap trials, then some of them in full."""
    rows = []
    for task in tasks:
        rng = np.random.default_rng(sum(task.encode("utf-8", "surrogatepass")))
        costs = rng.uniform(0.2, 2, count)
        best = float("inf")
        for number in range(count + 5):
            full = number >= count
            config = int(np.argsort(costs)[number - count]) if full else number
            cost = float(costs[config] * (0.7 if full else 1))
            incumbent, best = full and cost < best, min(best, cost) if full else best
            rows.append(
                {
                    "trial": number,
                    "config_id": config,
                    "stage": int(full),
                    "task": task,
                    "method": method,
                    "hparams": {"learning_rate": 10 ** -float(costs[config])},
                    "budget": 100.0 if full else 11.1,
                    "cost": None if number == 3 else cost,
                    "status": "crashed" if number == 3 else "done",
                    "seconds": 0.1,
                    "incumbent": incumbent,
                    "unit": "epochs",
                    "tuner": "smac",
                    "seed": 0,
                    "tuning": task,
                }
            )
    return rows


def judged(label, now=0.0, **changes):
    """A contender in an answer of a selection; it was not trained."""
    beliefs = {"expected": now - 0.5, "expected_sd": 2.0, "now": now, "now_sd": 1.0}
    return {
        **{"label": label, "method": label.split()[0], "rate": None},
        **{"values": [], "behind": [], "best": 0.5},
        **{**beliefs, **changes},
    }


def answer(task="libsvm/wine", label="adam (learning_rate=0.01)", **changes):
    """An answer in selection.json: its winner has two runs, two others none."""
    ends = {"least": 0.0, "greatest": 1.0}
    metric = {"name": "accuracy", "higher_is_better": True, "unit": "%", "digits": 1}
    return {
        **{"task": task, "method": "adam", "hparams": {"learning_rate": 0.01}},
        **{"label": label, "how": "race", "why": "by select.how"},
        **{"metric": "accuracy", "scale": metric | ends, "score": 0.85},
        **{"values": [0.9, 0.8], "interval": [0.75, 0.95]},
        **{"best": 0.625, "near": 0.75, "runner_up": "adam (learning_rate=0.1)"},
        **{"runner_up_better": 0.25, "similar": [["digits", 0.5], ["dna", 0.25]]},
        **{"described": None},
        **{"unlike": False, "surprised": False, "cost": 3.21, "budget": 4.0},
        **{"probed": 0.2, "seeds": [0, 1], "horizon": 90, "snippet": "import optax"},
        "judged": [
            judged(label, 0.0, values=[0.9, 0.8], behind=[0.0, -1.5]),
            judged("adam (learning_rate=0.1)", -1.0, values=[None], behind=[None]),
            judged("sgd (learning_rate=1)", -2.0),
        ],
        **{"left_out": ["momentum"], **changes},
    }
