"""How should the learning rate be controlled? Methods, populations, comparison."""

__version__ = "0.1.0"
