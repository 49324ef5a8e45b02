"""The tables of a working directory as they are read."""
