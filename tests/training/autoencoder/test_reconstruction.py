from nami_jax.training.autoencoder.reconstruction import network_config
from tests.support.autoencoder_runs import make_autoencoder_run


def test_network_has_the_sizes_of_the_config():
    network = network_config(make_autoencoder_run())
    assert network.block_out_channels == (4, 8)
    assert (network.latent_channels, network.sample_size, network.mid_block_add_attention) == (2, 16, False)
