"""Captioned images of any source to prepared latents, on Apache Beam: what `python -m nami_jax.prepare` runs."""
