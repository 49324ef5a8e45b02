"""Training of blocks of runs in JAX alone: no disk, no config."""
