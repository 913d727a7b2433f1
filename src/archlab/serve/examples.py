"""The picture of the examples in the documentation: a red circle, small enough to read in a request."""

import base64
from functools import cache
from io import BytesIO

from PIL import Image, ImageDraw


@cache
def red_circle() -> str:
    """A PNG of 64 x 64 pixels as a data URL."""
    image = Image.new("P", (64, 64), 0)
    image.putpalette([235, 235, 230, 214, 40, 40])
    ImageDraw.Draw(image).ellipse((16, 16, 47, 47), fill=1)
    file = BytesIO()
    image.save(file, "PNG", bits=1, optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
