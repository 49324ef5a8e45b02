"""What can be chosen when a task is made, and which tasks heed which choice."""

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
# Options that only some tasks have; asking another task for one is an error.
OPTIONAL = ("remat", "label_smoothing", "stream")


@fields.documented
@dataclasses.dataclass(frozen=True)
class Text:
    """What language tasks read, which is `config.text`; docs/text.md says how."""

    corpus: str = field(
        "",
        fields.text,
        "Text files, with commas between, tfds:NAME, hf:NAME, pydoc, or a folder of "
        "tokens; '': what the data directory has.",
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
        "Tokens of a row; None: the task's own.",
        int,
    )
    fraction: float = field(
        1.0,
        fields.number(fields.PART, "in (0, 1]"),
        "Share of the documents, drawn at random.",
    )


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """Choices that are made when a task is made.

    Attributes:
      protocol: 'sound' or 'study': how data is split, scaled and evaluated.
      data_dir: where data files lie, before the cache and a download;
        $LRJAX_DATA_DIR if None.
      batch_size: rows of a batch; the task's own if None.
      precision: 'float32', 'float64' (needs JAX's x64 mode) or 'bfloat16' (matrix
        products and activations only; parameters stay float32).
      text: what language tasks read; other tasks ignore it.
      micro_batches: equal parts of a batch, whose gradients are added up.
      remat: whether the model's blocks are computed again for the gradient instead of
        kept.
      label_smoothing: share of each label that is spread over all classes when the
        training loss is computed.
      stream: whether the training part stays on the host, from where batches are sent
        to the device; False: never; None: where it would take more than half of what
        is free there.
    """

    protocol: str = "sound"
    data_dir: str | None = None
    batch_size: int | None = None
    precision: str = "float32"
    text: Text = dataclasses.field(default_factory=Text)
    micro_batches: int = 1
    remat: bool = False
    label_smoothing: float = 0.0
    stream: bool | None = None


@dataclasses.dataclass(frozen=True)
class Factory:
    """A way to make a task.

    Attributes:
      make: the task for some options.
      supports: the options among `OPTIONAL` that `make` heeds.
      network: whether the task trains a network on images or text.
    """

    make: Callable[[TaskOptions], Task]
    supports: frozenset[str] = frozenset()
    network: bool = False

    def __call__(self, name: str, options: TaskOptions) -> Task:
        """Makes the task.

        Args:
          name: of the task, for errors.
          options: for `make`.

        Raises:
          UsageError: if an option is set that the task does not have.
        """
        for option in OPTIONAL:
            value = getattr(options, option)
            if value and option not in self.supports:
                raise UsageError(f"{option}={value}: '{name}' has no such option")
        return self.make(options)


def check(options: TaskOptions) -> None:
    """Refuses values that no task has.

    Raises:
      DataError: says which.
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
