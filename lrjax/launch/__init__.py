"""Planning and training of blocks: units, checkpoints and three launchers."""
