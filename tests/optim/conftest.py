"""Optimisers are tested with older versions of JAX, too (requirements-oldest.txt)."""

import jax

if not hasattr(jax, "enable_x64"):  # before 0.8 it was elsewhere
    from jax.experimental import enable_x64

    jax.enable_x64 = enable_x64
