import numpy as np

from nami_jax.files.row_pipe import RowProcess


def test_a_paraphrase_is_nearer_than_another_sentence():
    texts = ["two dogs wait for the bus", "a pair of dogs at a bus stop", "a violin made of ice"]
    with RowProcess("nami_jax.text.sentence_vectors") as vectors:
        rows = vectors(texts)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert rows[0] @ rows[1] > 0.7 > 0.3 > rows[0] @ rows[2]
