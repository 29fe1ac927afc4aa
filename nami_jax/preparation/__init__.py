"""Turns captioned images from any source into prepared pixels or latents, on Apache Beam."""
