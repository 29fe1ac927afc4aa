"""Running a network on overlapping tiles of a large image and blending the results, so that no seam is visible.

All lengths are in latents, the unit of which both images and latents have whole numbers.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np

MIN_OVERLAP = 3 / 8  # of a tile's side, shared with the next tile


def tiled(
    function: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, tile: int, scale_in: int, scale_out: int
) -> np.ndarray:
    """Applies `function` to tiles, all of one shape, and blends what comes out.

    Args:
        function: maps (B, height scale_in, width scale_in, channels) to (B, height scale_out, width scale_out, any).
        inputs: (B, H scale_in, W scale_in, channels). If neither H nor W exceeds `tile`, `function` gets them whole and
            its result is returned as it is.
        tile: longest side of a tile, latents, at least 8.
        scale_in: entries of `inputs` per latent, each way.
        scale_out: entries of the result per latent, each way.

    Returns:
        (B, H scale_out, W scale_out, any) float32.
    """
    rows, columns = (Axis(length // scale_in, tile, scale_out) for length in inputs.shape[1:3])
    result: np.ndarray | None = None
    for (i, top), (j, left) in itertools.product(enumerate(rows.starts), enumerate(columns.starts)):
        part = inputs[:, span(top, rows.tile, scale_in), span(left, columns.tile, scale_in)]
        y, x = span(top, rows.tile, scale_out), span(left, columns.tile, scale_out)
        output = function(part) * (rows.weights[i, y, None] * columns.weights[j, x])[..., None]
        if result is None:
            shape = (len(inputs), rows.length * scale_out, columns.length * scale_out, output.shape[3])
            result = np.zeros(shape, np.float32)
        result[:, y, x] += output
    assert result is not None  # there is at least one tile
    return result


class Axis:
    """Where the tiles lie along height or width.

    Attributes:
        length: of the axis, latents.
        tile: side of each tile, latents.
        starts: first latent of each tile.
        weights: (tiles, length scale_out) float32, each tile's share in each entry of the result.
    """

    def __init__(self, length: int, tile: int, scale_out: int):
        self.length, self.tile = length, min(length, tile)
        self.starts = tile_starts(length, self.tile)
        self.weights = blend_weights(self.starts, length, self.tile, scale_out)


def span(start: int, size: int, scale: int) -> slice:
    """Returns the entries of `size` latents from `start` on, at `scale` entries per latent."""
    return slice(start * scale, (start + size) * scale)


def tile_starts(length: int, tile: int) -> list[int]:
    """Returns where the tiles along one axis begin: spread evenly from edge to edge, overlapping by 3/8 or more.

    Args:
        length: of the axis, latents; up to `tile` there is one tile.
        tile: side of a tile, latents.
    """
    if length <= tile:
        return [0]
    steps = math.ceil((length - tile) / (tile - int(MIN_OVERLAP * tile)))
    return [i * (length - tile) // steps for i in range(steps + 1)]


def blend_weights(starts: list[int], length: int, tile: int, scale: int) -> np.ndarray:
    """Returns how much of each entry of the result is taken from each tile, along one axis.

    From one tile to the next the weight passes linearly over the middle half of their overlap. The outer quarters are
    thrown away: there convolutions have seen the zeros beyond their tile in place of the picture.

    Args:
        starts: of the tiles, latents, as `tile_starts` gives them.
        length: of the axis, latents.
        tile: side of a tile, latents, at least 8 if there are several.
        scale: entries of the result per latent.

    Returns:
        (tiles, length scale) float32; each column sums to 1.
    """
    if len(starts) == 1:
        return np.ones((1, length * scale), np.float32)
    overlap = tile - np.diff(starts).max()
    margin = overlap // 4 * scale
    ramp = overlap * scale - 2 * margin
    position = np.arange(length * scale)[None] + 0.5
    first = np.array(starts)[:, None] * scale
    rise = (position - first - margin) / ramp
    fall = (first + tile * scale - margin - position) / ramp
    rise[0], fall[-1] = 1.0, 1.0  # at the picture's own edges there is nothing to blend with
    weights = np.clip(np.minimum(rise, fall), 0.0, 1.0)
    return (weights / weights.sum(axis=0)[None]).astype(np.float32)
