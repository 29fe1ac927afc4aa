"""Data sets, prepared pictures, and the loader that turns them into training steps."""
