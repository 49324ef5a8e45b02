"""The section of RESULTS.md about a device, from the rows of results.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator.core import Row
from benchmarks.chips import CHIPS

# bfloat16 TFLOP/s without sparsity, by a part of JAX's name of the device.
PEAKS = {
    **{"H100": 989.0, "H200": 989.0, "A100": 312.0, "L4": 121.0, "V100": 125.0},
    **{"TPU v5 lite": 197.0, "TPU v5e": 197.0, "TPU v5p": 459.0, "TPU v4": 275.0},
    **{"TPU v6": 918.0},
}
# Of float32 as it is shipped: TF32 on GPUs, bfloat16 on TPUs.
_SHIPPED = {"gpu": 0.5, "tpu": 1.0}
_WORST = 5  # comparisons that are shown of each part
_WHY = """\
Tolerances: a floor (1e-5 of an array's largest value; golden trajectories 1e-4; a
network's step, as Euclidean distances, 1e-3 in exact float32, 5e-2 in float32 as it is
shipped and in bfloat16) plus ten times what the CPU's own numbers move when rounding
differs, since training amplifies it; of a step at most 0.5. Golden float64 trajectories
are followed in float32, which all devices have, and to 1e-9 in float64 where the device
has it. Bits must not differ when a program is called twice or by a new process."""


def write(about: Mapping[str, Any], rows: Sequence[Row], ceilings: Path) -> str:
    """The section in Markdown, between its markers."""
    tables = [
        _correctness(rows),
        _throughput(about, rows, read_ceilings(ceilings, about["device"])),
        _evidence(rows),
        _open(rows),
    ]
    body = "\n\n".join([_head(about), *filter(None, tables)])
    begin, end = markers(about["slug"])
    return f"{begin}\n{body}\n{end}\n"


def markers(slug: str) -> tuple[str, str]:
    """What stands around the section of a device."""
    return f"<!-- accelerator: {slug} -->", f"<!-- end of accelerator: {slug} -->"


def replaced(page: str, section: str, slug: str) -> str:
    """A page with a device's section, in the place of an earlier one or at the end."""
    begin, end = markers(slug)
    if begin in page and end in page.partition(begin)[2]:
        before, _, rest = page.partition(begin)
        return before + section + rest.partition(end)[2].removeprefix("\n")
    return f"{page.rstrip()}\n\n{section}"


def read_ceilings(path: Path, device: str) -> dict[tuple[str, int, str], float]:
    """(task, runs, precision) -> most examples/s of a device; {} without a file."""
    if not path.exists():
        return {}
    return {
        (row["task"], row["runs"], row["precision"]): row["examples_per_s"]
        for row in json.loads(path.read_text())["rows"]
        if row["device"] in device.lower() or device == CHIPS[row["device"]].name
    }


def _head(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    kinds = [about["platform"], f"driver {about['driver']}" if about["driver"] else ""]
    machine = ", ".join(filter(None, [f"{about['count']} x {about['device']}", *kinds]))
    small = " In miniature: it shows that the tool works." if about["miniature"] else ""
    return (
        f"## {about['device']}\n\n`{about['command']}` on {about['date']}: {machine}; "
        f"Python {about['python']}, {versions}; code {about['code']}.{small}"
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    made = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in made)


def _correctness(rows: Sequence[Row]) -> str:
    """The worst comparisons of each part, and all that fail."""
    checks = [row for row in rows if "check" in row]
    if not checks:
        return ""
    lines = []
    for part in dict.fromkeys(row["part"] for row in checks):
        own = [row for row in checks if row["part"] == part]
        judged = sorted((row for row in own if "ok" in row), key=_share, reverse=True)
        failed = [row for row in judged if not row["ok"]]
        told = [row for row in own if "ok" not in row]
        shown = [*failed, *judged[len(failed) :][: max(_WORST - len(failed), 1)], *told]
        for number, row in enumerate(shown):
            right = f"{len(judged) - len(failed)} of {len(judged)}"
            may = row["tolerance"]
            lines.append(
                (
                    *((part, right) if not number else ("", "")),
                    row["check"],
                    f"{row['error']:.2g}",
                    "told only" if may is None else f"{may:.2g}",
                    "" if row.get("ok", True) else "**fails**",
                )
            )
    head = ("part", "right", "nearest to failing", "error", "tolerance", "")
    return f"{_WHY}\n\n{_table(head, lines)}"


def _share(row: Row) -> float:
    """Error as a part of the tolerance."""
    if not row["ok"]:
        return float("inf")
    return row["error"] / row["tolerance"] if row["tolerance"] else 0.0


def peak(device: str, kind: str, precision: str) -> float | None:
    """TFLOP/s of a device; None if unknown."""
    found = [value for name, value in PEAKS.items() if name.lower() in device.lower()]
    if not found:
        return None
    return found[0] * (1.0 if precision == "bfloat16" else _SHIPPED.get(kind, 1.0))


def _throughput(
    about: Mapping[str, Any],
    rows: Sequence[Row],
    ceilings: Mapping[tuple[str, int, str], float],
) -> str:
    found = [row for row in rows if "step_seconds" in row]
    found.sort(key=lambda row: (row["task"], row["precision"], row["runs"]))
    lines = []
    for row in found:
        most = about["peak"] or peak(about["device"], about["kind"], row["precision"])
        ceiling = ceilings.get((row["task"], row["runs"], row["precision"]))
        rate = row["flops_per_s"] / 1e12
        lines.append(
            (
                row["task"],
                row["precision"],
                row["runs"],
                f"{1e3 * row['step_seconds']:.4g}",
                f"{row['examples_per_s']:,.0f}",
                f"{row['tokens_per_s']:,.0f}" if row["tokens_per_s"] else "",
                f"{rate:.3g}",
                f"{rate / most:.1%}" if most else "",
                f"{ceiling:,.0f}" if ceiling else "",
                f"{row['examples_per_s'] / ceiling:.0%}" if ceiling else "",
            )
        )
    head = (
        *("task", "precision", "runs", "ms a step", "examples/s, all runs"),
        *("real tokens/s", "TFLOP/s", "share of peak", "ceiling, examples/s"),
        "share of ceiling",
    )
    return _table(head, lines) if lines else ""


def _evidence(rows: Sequence[Row]) -> str:
    found = [row for row in rows if "test_accuracy" in row]
    if not found:
        return ""
    lines = [
        (
            row["task"],
            row["epochs"],
            row["method"],
            row["seeds"],
            _percent(row),
            f"{row['seconds']:.0f}",
        )
        for row in found
    ]
    head = ("task", "epochs", "method", "seeds", "test accuracy, mean (range), %")
    why = "\n\n".join(dict.fromkeys(row["why"] for row in found if row["why"]))
    why = f"Not CIFAR-10: {why}\n\n" if why else ""
    return why + _table((*head, "s, all methods"), lines)


def _percent(row: Row) -> str:
    mean, low, high = (
        100 * row[name] for name in ("test_accuracy", "lowest", "highest")
    )
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def _open(rows: Sequence[Row]) -> str:
    """What died, what was not run, and what time did not suffice for."""
    words = ("failed", "not run", "open")
    found = [(row, word) for row in rows for word in words if word in row]
    lines = [f"- {row['part']}, {row['item']}: {w}: {row[w]}" for row, w in found]
    return "\n".join(lines)
