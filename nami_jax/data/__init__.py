"""Data sets, prepared latents, and the loader that turns them into training steps."""
