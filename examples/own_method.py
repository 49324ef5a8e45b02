"""Compare and race a method of your own: Lion, whose rate falls along a parabola.

python examples/own_method.py
"""

import optax

import lrjax


# Parameters are hyperparameters, with defaults; `horizon` is the number of updates.
# Numbers may be traced, so that one program trains a grid of them: no `if` on them.
@lrjax.register_method("lion_parabola", space={"learning_rate": (1e-4, 1e-1, "log")})
def lion_parabola(horizon, learning_rate=1e-2, b1=0.9):
    def rate(step):
        return learning_rate * (1 - step / horizon) ** 2

    return optax.lion(rate, b1=b1)


# All methods that have a learning rate, with each of these.
grid = {"learning_rate": [1e-3, 1e-2, 1e-1]}
study = lrjax.compare(
    "libsvm/wine", [lion_parabola, "adamw_cosine"], seeds=5, epochs=100, grid=grid
)
print(study)

# Its name, since it is registered: races draw rates from `space`, too.
found = lrjax.select("libsvm/wine", ["lion_parabola", "adam"], budget=8, epochs=100)
print(f"raced: {found.label}, {found.metric} {found.score:.3f}")
