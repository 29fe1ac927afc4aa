"""A run on disk: its folder, its checkpoints, and the weights to draw with."""
