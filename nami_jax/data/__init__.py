"""Data sets, their preparation, and the loader that turns them into training steps."""
