"""Trains blocks of runs in JAX: no disk, no config."""
