from nami_jax.weights.bert_keys import BERT, read_bert_config
from tests.support.golden_networks import golden_bert


def test_shapes_are_those_of_the_tensors_that_are_exported():
    config, weights, _ = golden_bert()
    cfg = read_bert_config(config)
    exported = BERT.export(BERT.load(cfg, weights))
    assert BERT.shapes(cfg) == {key: tensor.shape for key, tensor in exported.items()}
