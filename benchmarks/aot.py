r"""What the programs of experiments cost on GPUs and TPUs that are not here.

  python benchmarks/aot.py [--for=v5e,h100,h200] [--tasks=cifar10/wrn16_2,...]
      [--runs=1,8] [--shard=runs] [--precision=auto] [--method=adam] [--batch=N]
      [--scan-layers] [--step-only] [--minutes=20] [--show=3] [--json=FILE]
      [--ceilings]

XLA's own compilers make the programs that main.py would run, from shapes of the data
alone; nothing runs. They come with `pip install -r requirements-aot.txt`, better into
an environment of its own. Each program is compiled in a process of its own, which
`--minutes` limits; that it took longer is a result, too.

A target is a chip, with a number or shape of several: 'h100:8', 'v5e:2x4'; then
`--shard` is 'batch' or 'params', as in configs. Columns:

- compile: seconds of the processor for a segment (training, evaluations, loops), or
  with `--step-only` for a step, which takes a third of that;
- memory: the same program's, with data and state, and whether it fits;
- flops: of the model's loss and gradient, as XLA counts them, of all runs together;
- moved: bytes through the memory of one device in a step;
- kernels, launches: of a step; launches are what the host starts, known for GPUs;
- received: bytes that one device receives from others in a step;
- step: least milliseconds of a step, from the roofline of each kernel;
- examples/s: what follows, a ceiling; peak: share of the peak in bfloat16.

Below each row are the kernels that take longest, and warnings. `--ceilings` keeps the
ceilings of one device in `benchmarks/ceilings.json`, for `make accelerator`.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import chips, hlo  # noqa: E402

TASKS = (
    *("libsvm/iris", "libsvm/letter", "digits/wrn", "cifar10/wrn16_2"),
    *("cifar100/densenet_bc", "dtd/vit_ti16", "bookwiki/roberta_base"),
)
CEILINGS = HERE / "ceilings.json"
_LARGE = 100e6  # bytes of a scatter worth a warning
_RANDOM = 0.05  # share of a step's time for random numbers worth a warning
_NARROW = 0.01  # share of a step's operations on float32 worth a warning
_WINDOW = 7  # the largest window of a forward convolution that models have
_PIXELS = 640  # the largest side of DTD's images
_EXCHANGES = ("all-gather", "all-to-all", "collective-permute")
_UNTUNED = "find output tile sizes"  # of an error
_BATCH = 32  # rows of RoBERTa-base: what fits one device


@dataclasses.dataclass(frozen=True)
class Case:
    """One program.

    Attributes:
      target: chip and number, as in `--for`.
      task, method: their names.
      runs: runs of the block.
      shard: as in `config.shard`.
      precision: as in `config.precision`.
      batch: rows of a batch; None for the task's own.
      scan_layers: as in `config.scan_layers`.
      step_only: whether to compile a step alone.
    """

    target: str
    task: str
    runs: int
    shard: str = "runs"
    precision: str = "auto"
    method: str = "adam"
    batch: int | None = None
    scan_layers: bool = False
    step_only: bool = False

    @property
    def chip(self) -> chips.Chip:
        """The chip to compile for."""
        return chips.chip_of(self.target)


def _in_parts(rows: Mapping[str, int]) -> dict[str, int]:
    """Rows of each part; without a validation part a fifth of the training part."""
    if "valid" in rows:
        return dict(rows)
    return {
        **rows,
        "train": rows["train"] - rows["train"] // 5,
        "valid": rows["train"] // 5,
    }


def shape_task(name: str, options: Any) -> Any:
    """A task of full size whose data are shapes.

    Args:
      name: a task of images or text, or a set of `libsvm.SETS`.
      options: `TaskOptions`.
    """
    import jax
    import numpy as np

    from lrjax import tasks
    from lrjax.tasks import diffusion, image_data, images, libsvm, text

    random = np.random.default_rng(0)
    rows: dict[str, int] = {}
    if name in images.RECIPES:
        entry = image_data.SETS[images.RECIPES[name].data]
        shape = entry.shape or (_PIXELS, _PIXELS, 3)
        pixels = random.integers(0, 256, (8, *shape), np.uint8)
        part = image_data.Part(pixels, np.arange(8) % entry.classes)
        part = part if entry.shape else images.with_sizes(part)
        parts = dict.fromkeys(("train", "valid", "test"), part)
        task = images.recipe_task(name, parts, options)
        rows = _in_parts(entry.rows)
    elif name in diffusion.RECIPES:
        entry = image_data.SETS[diffusion.RECIPES[name].data]
        pixels = random.integers(0, 256, (8, *entry.shape), np.uint8)
        parts = dict.fromkeys(("train", "valid", "test"), pixels)
        task = diffusion.recipe_task(name, parts, options)
        rows = _in_parts(entry.rows)
    elif name in text.RECIPES:
        recipe = text.RECIPES[name]
        tokens = random.integers(5, recipe.vocab_size, (8, recipe.length))
        part = tokens.astype(np.uint16)
        task = text.recipe_task(
            name, {"train": part, "valid": part}, recipe.vocab_size, 4, options
        )
        rows = {"train": 100_000, "valid": 1000, "test": 1000}
    elif name.removeprefix("libsvm/") in libsvm.SETS and name.startswith("libsvm/"):
        entry = libsvm.SETS[name.removeprefix("libsvm/")]
        features = random.normal(size=(entry.rows, entry.features))
        labels = np.arange(entry.rows) % entry.classes
        task = libsvm.logistic_task(name, features, labels, options)
    else:
        task = tasks.make_task(name, options)

    def grown(which: str) -> dict[str, Any]:
        return {
            key: jax.ShapeDtypeStruct((rows.get(which, len(x)), *x.shape[1:]), x.dtype)
            for key, x in getattr(task, which).items()
        }

    train, test = grown("train"), grown("test")
    valid = train if task.valid is task.train else grown("valid")
    return dataclasses.replace(task, train=train, valid=valid, test=test)


def build(case: Case) -> tuple[Any, Any, Any]:
    """Make a block's program, seeds and inputs, all on devices that are not here."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from lrjax import methods, tasks
    from lrjax.engine import sharding, train

    devices = chips.devices_of(case.target)
    layout = sharding.choose(case.shard, devices)
    where = layout.replicated if layout else SingleDeviceSharding(devices[0])
    precision = tasks.precision_of(case.task, case.precision)
    batch = case.batch
    if case.task.startswith("bookwiki/roberta_base") and batch is None:
        batch = _BATCH * (len(devices) if layout else 1)
    options = tasks.TaskOptions(
        precision=precision, batch_size=batch, scan_layers=case.scan_layers
    )
    task = shape_task(case.task, options)
    parts = {
        part: sharding.with_shardings(getattr(task, part), where)
        for part in ("train", "test")
    }
    shared = task.valid is task.train
    parts["valid"] = (
        parts["train"] if shared else sharding.with_shardings(task.valid, where)
    )
    task = dataclasses.replace(task, **parts)
    method = methods.find(case.method)
    static, traced = methods.split(method, dict(method.defaults))
    program = train.single(
        *(task, method, static, task.steps_per_epoch, 1, case.runs), layout=layout
    )
    seeds = jax.eval_shape(
        lambda numbers: train.seed_runs(task.init, numbers), jnp.zeros(1, jnp.uint32)
    )
    column = jax.ShapeDtypeStruct((case.runs,), program.dtype)
    number = jax.ShapeDtypeStruct((), program.dtype)
    inputs = train.Inputs(
        seeds.order, seeds.noise, (dict.fromkeys(traced, column),), number
    )
    return (
        program,
        sharding.with_shardings(seeds, where),
        sharding.with_shardings(inputs, where),
    )


def lowered_step(program: Any, seeds: Any, inputs: Any) -> Any:
    """Lower one step of a block, its rows gathered from the training part."""
    import jax
    import jax.numpy as jnp

    from lrjax.engine import order, sharding, train

    task, layout = program.task, program.layout
    state = jax.eval_shape(lambda s, i: train.init(program, s, i), seeds, inputs)
    out = layout.of_block(state) if layout else None
    where = jax.tree.leaves(task.train)[0].sharding
    state = sharding.with_shardings(state, out or where)
    shared = layout is not None
    laid_out = jax.eval_shape(lambda part: order.laid_out(part, shared), task.train)
    laid_out = sharding.with_shardings(laid_out, where)

    def step(state: Any, inputs: Any, data: Any, rows: Any, number: Any) -> Any:
        batch = order.taken(data, rows, task.train, shared)
        mask = jnp.ones(task.batch_size, bool)
        return train.step_block(program, state, batch, mask, inputs, number)

    rows = jax.ShapeDtypeStruct((1, task.batch_size), jnp.int32)
    compiled = jax.jit(step, donate_argnums=0, out_shardings=out)
    return compiled.lower(state, inputs, laid_out, rows, 0)


def model_flops(case: Case) -> float:
    """Operations of loss and gradient of all runs' batches, as XLA counts them."""
    from benchmarks import steps
    from lrjax import machine

    # No kind that has kernels of its own, which XLA cannot look into, and no loops, of
    # which it counts one round.
    with machine.compiling_for("other"):
        task = build(dataclasses.replace(case, scan_layers=False))[0].task
        return case.runs * steps.step_flops(task)


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """Compile a case's programs, and say what they cost.

    Args:
      case: what to compile.
      folder: where XLA leaves its notes.
    """
    import jax

    from lrjax import machine, tasks
    from lrjax.common import numerics
    from lrjax.engine import programs, xla_options

    numerics.fix("float32")
    chip = case.chip
    with machine.compiling_for(chip.kind):
        precision = tasks.precision_of(case.task, case.precision)
        program, seeds, inputs = build(case)
        task, layout = program.task, program.layout
        flops = model_flops(case)
        count = len(layout.devices) if layout else 1
        began = time.process_time()
        lowered = lowered_step(program, seeds, inputs)
        step = xla_options.compile_step(lowered, seeds.params)
        if case.step_only:
            infos = jax.tree.leaves(lowered.args_info[0][0])
            state = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in infos]
            need = programs.need(step, state)
        else:
            began = time.process_time()
            need = programs.compile_program(program, seeds, inputs).need
        compiled = time.process_time() - began
    text = step.as_text()
    (folder / "step.hlo.txt").write_text(text)
    data = {id(x): x for x in [*task.train.values(), *task.valid.values()]}
    memory = need + programs.tree_bytes(list(data.values()))
    alone, whole = thunks(folder, "step"), thunks(folder, "its_segment")
    starts = launches(alone, whole) if alone and whole else None
    kernels = hlo.Module(text, count).kernels()
    seconds = hlo.total_seconds(kernels, chip)
    examples = task.batch_size * case.runs
    shapes = [x.size for x in jax.tree.leaves(seeds.params)]
    return {
        **dataclasses.asdict(case),
        "precision": precision,
        "batch": task.batch_size,
        "compile_s": compiled,
        "memory": memory,
        "fits": bool(memory < chip.memory),
        "flops": flops,
        "moved": sum(k.times * k.bytes for k in kernels),
        "kernels": sum(k.times for k in kernels),
        "launches": starts,
        "received": sum(k.times * k.received for k in kernels),
        "step_ms": 1e3 * seconds,
        "examples_per_s": examples / seconds,
        "peak": flops / count / chip.halves / seconds,
        "slowest": slowest(kernels, chip),
        "warnings": [
            *kernel_warnings(kernels, chip, precision, shapes, count),
            *([] if memory < chip.memory else ["does not fit the device's memory"]),
            *(
                ["the loop over steps waits for the host in each step"]
                if starts
                else []
            ),
        ],
    }


def slowest(kernels: Sequence[hlo.Kernel], chip: chips.Chip) -> list[dict[str, Any]]:
    """Kernels of the same kind and place together, the slowest first."""
    groups: dict[str, list[hlo.Kernel]] = collections.defaultdict(list)
    for kernel in kernels:
        groups[re.sub(r"\d+", "#", kernel.name.split("metadata")[0])].append(kernel)
    rows = [
        {
            "name": found[0].name,
            "times": sum(k.times for k in found),
            "ms": 1e3 * hlo.total_seconds(found, chip),
            "moved": sum(k.times * k.bytes for k in found),
            "flops": sum(k.times * k.flops for k in found),
        }
        for found in groups.values()
    ]
    return sorted(rows, key=lambda row: -row["ms"])[:10]


def kernel_warnings(
    kernels: Sequence[hlo.Kernel],
    chip: chips.Chip,
    precision: str,
    params: Sequence[int],
    devices: int,
) -> list[str]:
    """What a step's kernels have that costs more than it should.

    Args:
      kernels: those of the step.
      chip: what it is compiled for.
      precision: that of the task.
      params: sizes of the parameters of one run.
      devices: devices that share the block.
    """
    found = []
    flops = sum(k.times * k.flops for k in kernels)
    wide = sum(k.times * k.flops for k in kernels if k.units != "halves")
    if precision == "bfloat16" and wide > _NARROW * flops:
        found.append(f"products of float32: {wide / flops:.0%} of the operations")
    if precision == "float32" and any(k.flops and k.units != "floats" for k in kernels):
        found.append("products of float32 that are rounded first")
    windows = [
        max(k.instruction.sizes("size"), default=0)
        for k in kernels
        if "convForward" in k.instruction.target
    ]
    if any(window > _WINDOW for window in windows):
        count = sum(window > _WINDOW for window in windows)
        found.append(
            f"{count} forward convolutions with windows of up to {max(windows)}: "
            "gradients of kernels"
        )
    moved = [
        array
        for kernel in kernels
        if hlo.collective(kernel) in _EXCHANGES
        for array in kernel.instruction.results
        # Sums of gradients, and gathered parameters, are joined to vectors.
        if array.size > 100_000
        and len(array.shape) > 1
        and not any(array.size in (n, n // devices) for n in params)
    ]
    if moved:
        largest = max(moved, key=lambda array: array.size)
        found.append(
            f"{len(moved)} arrays that are no parameters pass between devices, such as "
            f"{largest.dtype}{list(largest.shape)}"
        )
    scattered = sum(
        k.times * k.bytes for k in kernels if "scatter" in k.instruction.name
    )
    if scattered > _LARGE:
        found.append(f"scatters move {scattered / 1e6:,.0f} MB")
    numbers = sum(k.times * k.integers for k in kernels) / chip.integers
    share = numbers / hlo.total_seconds(kernels, chip)
    if share > _RANDOM:
        found.append(f"random numbers: up to {share:.0%} of the time")
    return found


@dataclasses.dataclass
class Thunk:
    """What a GPU program's host does: a launch, or several in a loop or a buffer.

    Attributes:
      kind: XLA's name, such as 'kCustomKernel', 'kWhile' or 'kCommandBuffer'.
      inner: what it consists of; a buffer's parts are launched as one.
    """

    kind: str
    inner: list[Thunk] = dataclasses.field(default_factory=list)

    def all(self) -> Iterator[Thunk]:
        """Everything inside of it."""
        for thunk in self.inner:
            yield thunk
            yield from thunk.all()

    @property
    def launches(self) -> int:
        """Launches of one call, or of one round of a loop."""
        counts = (
            thunk.launches if thunk.kind == "kWhile" else 1 for thunk in self.inner
        )
        return sum(counts)

    def steered(self) -> list[Thunk]:
        """Loops whose end the host looks up in each round."""
        found = []
        for thunk in self.inner:
            found += [thunk] * (thunk.kind == "kWhile")
            found += [] if thunk.kind == "kCommandBuffer" else thunk.steered()
        return found


def thunks(folder: Path, program: str) -> Thunk | None:
    """What the host does for a GPU program; None for programs of other compilers.

    Args:
      folder: where XLA wrote it.
      program: the program's name.
    """
    files = [*folder.glob(f"*jit_{program}.thunk_sequence*.txt")]
    if not files:
        return None
    root = Thunk(program)
    above = [(-1, root)]
    text = max(files, key=lambda file: len(file.name)).read_text()  # after all passes
    for indent, kind in re.findall(r"^( *)\d+: (k\w+)", text, re.M):
        while above[-1][0] >= len(indent):
            above.pop()
        above[-1][1].inner.append(thunk := Thunk(kind))
        above.append((len(indent), thunk))
    return root


def launches(step: Thunk, segment: Thunk) -> int:
    """Launches of one step of a segment; 0 if a buffer holds the loop over steps.

    Args:
      step: what a step alone consists of.
      segment: the segment's loops.
    """
    size = len([*step.all()])
    inside = [
        loop
        for rounds in segment.all()
        if rounds.kind == "kWhile"
        for loop in rounds.all()
        if loop.kind == "kWhile"
    ]
    nearest = min(inside, key=lambda loop: abs(len([*loop.all()]) - size))
    steered = any(nearest is loop for loop in segment.steered())
    return nearest.launches if steered else 0


def row_of(case: Case, minutes: float, without_triton: bool = False) -> dict[str, Any]:
    """Measure a case in a process of its own; the row says so if that fails.

    Args:
      case: what to compile.
      minutes: its limit.
      without_triton: whether products of GPUs are those of a library. XLA's own need
        tiles, which it cannot always choose without trying them on a device.
    """
    absent = chips.missing(case.target)
    row = dataclasses.asdict(case)
    if absent:
        return row | {"failed": f"{absent} is not installed (requirements-aot.txt)"}
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, __file__, f"--one={json.dumps(row)}"]
        flags = f"--xla_dump_to={scratch} --xla_dump_hlo_as_text"
        only = "--xla_dump_hlo_module_re=.*(step|its_segment).*"
        environment = {**os.environ, **chips.ENVIRONMENT}
        if without_triton:
            only += " --xla_gpu_enable_triton_gemm=false"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags} {only}"
        job = subprocess.Popen(
            [*command, f"--folder={scratch}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            said, complaint = job.communicate(timeout=60 * minutes)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)  # XLA's compilers ignore others
            job.communicate()
            return row | {"failed": f"not compiled in {minutes:g} minutes"}
    if job.returncode and _UNTUNED in complaint and not without_triton:
        return row_of(case, minutes, without_triton=True)
    if job.returncode:
        lines = re.findall(r"^[\w.]+(?:Error|Exception)\b.*", complaint, re.M)
        return row | {"failed": (lines or complaint.splitlines() or ["?"])[-1][:300]}
    found = json.loads(said.splitlines()[-1])
    if without_triton:
        found["warnings"].append("products without Triton, which cannot be tuned here")
    return found


def shown(row: Mapping[str, Any], kernels: int) -> list[str]:
    """Lines that describe a row.

    Args:
      row: as returned by `row_of`.
      kernels: how many of the slowest to name.
    """
    shard = f" {row['shard']}" if row["shard"] != "runs" else ""
    head = f"{row['target']:<9}{row['task'] + shard:<26}{row['runs']:>4}"
    if "failed" in row:
        return [f"{head}  {row['failed']}"]
    launches = "-" if row["launches"] is None else row["launches"]
    lines = [
        f"{head} {row['precision']:<9}{row['compile_s']:>7.0f} s"
        f"{row['memory'] / 1e9:>8.2f} GB{'' if row['fits'] else '!':<1}"
        f"{row['flops'] / 1e9:>10,.1f}{row['moved'] / 1e9:>9.2f}"
        f"{row['kernels']:>8,}{launches:>9}{row['received'] / 1e9:>9.2f}"
        f"{row['step_ms']:>9.3f}{row['examples_per_s']:>13,.0f}{row['peak']:>6.0%}"
    ]
    lines += [
        f"    {item['ms']:8.3f} ms {item['times']:>4} x {item['moved'] / 1e6:9,.1f} MB "
        f"{item['flops'] / 1e9:9,.1f} GFLOP  {item['name'][:90]}"
        for item in row["slowest"][:kernels]
    ]
    return [*lines, *(f"    warning: {text}" for text in row["warnings"])]


HEADER = (
    f"{'for':<9}{'task':<26}{'runs':>4} {'precision':<9}{'compile':>9}"
    f"{'memory':>12}{'GFLOP':>10}{'GB moved':>9}{'kernels':>8}{'launches':>9}"
    f"{'received':>9}{'step/ms':>9}{'examples/s':>13}{'peak':>6}"
)


def keep(rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the ceilings of single devices into `CEILINGS`, in place of older ones."""
    fields = ("device", "task", "runs", "precision")
    old = json.loads(CEILINGS.read_text())["rows"] if CEILINGS.exists() else []
    kept = {tuple(row[f] for f in fields): row for row in old}
    for row in rows:
        if "failed" not in row and ":" not in row["target"]:
            new = {
                "device": row["target"],
                **{field: row[field] for field in fields[1:]},
                "examples_per_s": float(f"{row['examples_per_s']:.3g}"),
            }
            kept[tuple(new[f] for f in fields)] = new
    ordered = [kept[key] for key in sorted(kept)]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in ordered)
    CEILINGS.write_text(f'{{"rows": [\n{lines}\n]}}\n')


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--for", dest="targets", default="v5e,h100,h200")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--runs", default="1,8")
    parser.add_argument("--shard", default="runs")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--method", default="adam")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--show", type=int, default=3)
    parser.add_argument("--json")
    parser.add_argument("--scan-layers", action="store_true")
    parser.add_argument("--step-only", action="store_true")
    parser.add_argument("--ceilings", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Compile all cases and print a table."""
    args = arguments()
    if args.one:
        case = Case(**json.loads(args.one))
        print(json.dumps(measured(case, Path(args.folder))))
        return
    choices = (args.targets, args.tasks, args.runs, args.shard)
    cases = [
        Case(
            *(target, task, int(runs), shard, args.precision, args.method, args.batch),
            scan_layers=args.scan_layers,
            step_only=args.step_only,
        )
        for target, task, runs, shard in itertools.product(
            *(choice.split(",") for choice in choices)
        )
    ]
    for case in cases:
        _ = case.chip  # names the known ones if it is none of them
    print(HEADER)
    rows = []
    for case in cases:
        rows.append(row_of(case, args.minutes))
        print(*shown(rows[-1], args.show), sep="\n", flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    if args.ceilings:
        keep(rows)


if __name__ == "__main__":
    main()
