import io

import numpy as np
import pytest
from PIL import Image

from nami_jax.data.emoji_captions.raster import rasterise

SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}"><rect width="99" height="99" fill="red"/></svg>'


@pytest.mark.parametrize(("width", "height"), [(20, 10), (10, 20), (10, 10)])
def test_rasterising_fits_and_centres(width, height):
    with Image.open(io.BytesIO(rasterise(SQUARE.format(width, height), 16))) as image:
        assert image.mode == "RGB"
        red = np.asarray(image)[..., 1] < 128
    assert red.sum() == 16 * 16 * min(width, height) // max(width, height)
    assert (red == red[::-1]).all()
    assert (red == red[:, ::-1]).all()
