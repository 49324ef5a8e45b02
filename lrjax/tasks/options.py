"""Options of tasks, and which tasks support which option."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from lrjax.common import fields
from lrjax.common.fields import field
from lrjax.core import Task, UsageError
from lrjax.tasks.data import DataError

PRECISIONS = ("float32", "float64", "bfloat16")
PROTOCOLS = ("study", "sound")
# Options that only some tasks support; setting one for another task is an error.
OPTIONAL = ("remat", "scan_layers", "label_smoothing", "stream")


@fields.documented
@dataclasses.dataclass(frozen=True)
class Text:
    """Input of language tasks: the block `config.text`, explained in docs/text.md."""

    corpus: str = field(
        "",
        fields.text,
        "Text files separated by commas, tfds:NAME, hf:NAME, pydoc, or a folder of "
        "tokens; '': the text files in the data directory.",
    )
    tokenizer: str = field(
        "",
        fields.text,
        "A tokenizer.json, or a folder with one or with vocab.json and merges.txt; "
        "'': the task's own.",
    )
    length: int | None = field(
        None,
        fields.optional(fields.positive),
        "Tokens per row; None: the task's own.",
        int,
    )
    fraction: float = field(
        1.0,
        fields.number(fields.PART, "in (0, 1]"),
        "Share of the documents, drawn at random.",
    )


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """Options of a task.

    Attributes:
      protocol: 'sound' or 'study': how data is split, scaled and evaluated.
      data_dir: directory searched for data files first, before the cache and before
        downloading; $LRJAX_DATA_DIR if None.
      batch_size: rows per batch; the task's own if None.
      precision: 'float32', 'float64' (needs JAX's x64 mode) or 'bfloat16' (matrix
        products and activations only; parameters stay float32).
      text: input of language tasks; other tasks ignore it.
      micro_batches: number of equal parts of a batch whose gradients are accumulated.
      remat: whether to recompute the activations of the model's blocks in the backward
        pass instead of storing them.
      scan_layers: whether equal layers of a language model are a loop that is compiled
        once.
      label_smoothing: share of each label that is spread over all classes in the
        training loss.
      stream: whether the training part stays on the host and batches are copied to the
        device; None: if the part would take more than half of the free device memory.

    Example:
      >>> from lrjax import tasks
      >>> tasks.make_task("libsvm/iris", TaskOptions(batch_size=20)).batch_size
      20
    """

    protocol: str = "sound"
    data_dir: str | None = None
    batch_size: int | None = None
    precision: str = "float32"
    text: Text = dataclasses.field(default_factory=Text)
    micro_batches: int = 1
    remat: bool = False
    scan_layers: bool = False
    label_smoothing: float = 0.0
    stream: bool | None = None


@dataclasses.dataclass(frozen=True)
class Factory:
    """Makes one task, after checking that the task supports the options.

    Attributes:
      make: function from options to the task.
      supports: the options among `OPTIONAL` that the task supports.
      network: whether the task trains a network on images or text.
    """

    make: Callable[[TaskOptions], Task]
    supports: frozenset[str] = frozenset()
    network: bool = False

    def __call__(self, name: str, options: TaskOptions) -> Task:
        """Make the task.

        Args:
          name: the task's name, for errors.
          options: passed to `make`.

        Raises:
          UsageError: if an option is set that the task does not support.
        """
        for option in OPTIONAL:
            value = getattr(options, option)
            if value and option not in self.supports:
                raise UsageError(f"{option}={value}: '{name}' has no such option")
        return self.make(options)


def check(options: TaskOptions) -> None:
    """Check the values that are the same for all tasks.

    Raises:
      DataError: for an unknown protocol or precision, float64 without x64 mode, or a
        batch size below 1.
    """
    for name, choices in (("protocol", PROTOCOLS), ("precision", PRECISIONS)):
        value = getattr(options, name)
        if value not in choices:
            known = ", ".join(choices)
            raise DataError(f"unknown {name} '{value}': there are {known}")
    if options.precision == "float64" and jnp.result_type(float) != jnp.float64:
        raise DataError("precision 'float64' needs JAX_ENABLE_X64=1")
    if options.batch_size is not None and options.batch_size < 1:
        raise DataError(f"batch size {options.batch_size} is below 1")
