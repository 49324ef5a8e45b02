"""What `lrjax watch` takes of a core while 1,000 runs train.

  python benchmarks/watch.py --seconds=60

Writes the tables of 1,000 runs of ten methods on ten tasks that nobody trains, a row of
each run a second, while a page is open, and prints the processor time of the server:
until every part of the page was drawn once, and as a share of a core from then on.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import math
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

METHODS = ("sgd", "momentum", "adam", "adamw_cosine", "nadamw_cosine", "cawr")
METHODS += ("dadapt_adam", "prodigy", "cocob", "dowg")
TASKS = tuple(f"made/task{i}" for i in range(10))
SEEDS, STEPS = range(10), 10**6


def runs():
    """Rows of started.jsonl."""
    chosen = itertools.product(TASKS, METHODS, SEEDS)
    for number, (task, method, seed) in enumerate(chosen):
        yield {
            "run_id": f"{number:016x}",
            "task": task,
            "protocol": "sound",
            "method": method,
            "hparams": {},
            "seed": seed,
            "steps": STEPS,
            "horizon": STEPS,
            "kind": "run",
        }


def row(run, step):
    """A row of curves.jsonl."""
    place = METHODS.index(run["method"]) + 1
    loss = 0.1 * place + math.exp(-step / 100 / place) + 0.01 * run["seed"]
    return {
        "run_id": run["run_id"],
        "step": step,
        "epoch": step / 10,
        "train_loss": round(0.9 * loss, 9),
        "valid_loss": round(loss, 9),
        "valid_accuracy": round(math.exp(-loss), 9),
        "learning_rate": 0.1 / place,
    }


def append(path, rows):
    """Append rows to a table."""
    with path.open("a") as file:
        file.write("".join(json.dumps(each) + "\n" for each in rows))


def write(workdir, ended):
    """Write a row of each run every second, until it ends."""
    heads = list(runs())
    append(workdir / "started.jsonl", heads)
    began, step = time.time(), 0
    while not ended.wait(max(0.0, began + step / 10 - time.time())):
        step += 10
        append(workdir / "curves.jsonl", [row(run, step) for run in heads])
        progress = {"mode": "train", "state": "training", "what": "all", "runs": 1000}
        progress |= {"runs_done": 0, "updates": 1000 * STEPS, "began": began}
        progress |= {"updates_done": 1000 * step, "written": time.time()}
        (workdir / "progress.tmp").write_text(json.dumps(progress))
        (workdir / "progress.tmp").replace(workdir / "progress.json")


class Page:
    """Reads the events of a page, as a browser does.

    Attributes:
      events, bytes: how many came.
      parts: names of the parts that came.
    """

    def __init__(self, port):
        self.events, self.bytes, self.parts = 0, 0, set()
        self._answer = http.client.HTTPConnection("127.0.0.1", port)
        self._answer.request("GET", "/events")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._answer.getresponse():
            self.bytes += len(line)
            if line.startswith(b"data: "):
                self.events += 1
                self.parts |= set(json.loads(line[6:])["parts"])


def main():
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lrjax", "watch", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            port = int(re.search(r":(\d+)/", server.stdout.readline())[1])
            writer = threading.Thread(target=write, args=(Path(folder), ended))
            writer.start()
            process, page = psutil.Process(server.pid), Page(port)

            def used():
                return sum(process.cpu_times()[:2])

            began = time.monotonic()
            while not page.parts >= {f"task-{i}" for i in range(len(TASKS))}:
                time.sleep(0.1)
            print(
                f"until all is drawn once: {time.monotonic() - began:.0f} s, "
                f"{used():.1f} s of a core, the start of the program included"
            )
            before, seen, size = used(), page.events, page.bytes
            time.sleep(options.seconds)
            share = (used() - before) / options.seconds
            print(
                f"then, for {options.seconds:.0f} s: {share:.1%} of a core, "
                f"{page.events - seen} events, {(page.bytes - size) / 1e6:.1f} MB, "
                f"{process.memory_info().rss / 2**20:.0f} MiB of memory"
            )
        finally:
            ended.set()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
