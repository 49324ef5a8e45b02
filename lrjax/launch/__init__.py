"""Who trains what is asked for: blocks, units, checkpoints, and three launchers."""
