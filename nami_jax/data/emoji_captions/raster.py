"""SVG to pixels: what every emoji's art passes through."""

import io

import resvg_py
from PIL import Image


def draw(svg: str, size: int) -> Image.Image:
    """Draws an SVG as large as fits, centred on a transparent ground: size x size RGBA pixels."""
    drawn = _draw(svg, width=size, height=None)
    if drawn.height > size:
        drawn = _draw(svg, width=None, height=size)
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(drawn, ((size - drawn.width) // 2, (size - drawn.height) // 2))
    return canvas


def rasterise(svg: str, size: int) -> bytes:
    """Draws an SVG as large as fits, centred on white: a PNG of size x size RGB pixels."""
    canvas = Image.new("RGBA", (size, size), "white")
    canvas.alpha_composite(draw(svg, size))
    png = io.BytesIO()
    canvas.convert("RGB").save(png, "PNG")
    return png.getvalue()


def _draw(svg: str, width: int | None, height: int | None) -> Image.Image:
    png = resvg_py.svg_to_bytes(svg_string=svg, width=width, height=height, skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGBA")
