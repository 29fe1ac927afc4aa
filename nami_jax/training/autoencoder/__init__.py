"""The task that trains an autoencoder."""
