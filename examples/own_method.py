"""Race a method of your own against others.

python examples/own_method.py
"""

import sys
from pathlib import Path

import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this repository

import lrjax
from lrjax.core import Method, Range, Space


def build(horizon, learning_rate, b1):  # numbers may be traced: no `if` on them
    def rate(step):  # falls along a parabola
        return learning_rate * (1 - step / horizon) ** 2

    return optax.chain(optax.scale_by_lion(b1=b1), optax.scale_by_learning_rate(rate))


own = Method(
    name="lion_parabola",
    build=build,
    defaults={"learning_rate": 1e-3, "b1": 0.9},
    family="schedule",
    source="this file",
    space=Space({"learning_rate": Range(1e-4, 1e-1)}),
    needs_rate=True,  # so that rates of the space are raced too
    horizon_bound=lambda hparams: True,  # judged by a branch brought to rest
)
print(lrjax.select("libsvm/wine", [own, "adam", "prodigy"], budget=8, epochs=30))
