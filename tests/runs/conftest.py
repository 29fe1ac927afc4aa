"""What runs are made of that other folders' tests have fixtures for."""

from tests.preparation.conftest import autoencoder_folder, data_fields, latent_config

__all__ = ["autoencoder_folder", "data_fields", "latent_config"]
