import numpy as np
from PIL import Image

from nami_jax.files.row_pipe import RowProcess
from nami_jax.models.efficientnet_lite import HEAD


def test_files_of_any_size_have_features_of_length_1_by_what_they_show(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    pictures = {"ramp": Image.fromarray(ramp), "large": Image.fromarray(ramp).resize((96, 80))}
    pictures["noise"] = Image.fromarray(noise)
    paths = []
    for name, picture in pictures.items():
        paths.append(str(tmp_path / f"{name}.png"))
        picture.save(paths[-1])
    with RowProcess("nami_jax.evaluation.feature_rows") as features:
        rows = features(paths)
    assert rows.shape == (3, HEAD)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
