"""The frozen autoencoder: images to latents and back, whole or in tiles."""
