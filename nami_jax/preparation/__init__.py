"""Turns captioned images from any source into prepared latents, on Apache Beam."""
