"""Shared helpers: declared fields, readers of files, JAX's settings, jaxprs."""
