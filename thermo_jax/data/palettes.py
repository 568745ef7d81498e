import numpy as np


def gray_levels(rgb):
    spread = rgb.max(-1).astype(int) - rgb.min(-1)
    if spread.max() <= 8:
        from PIL import Image

        return np.array(Image.fromarray(rgb).convert("L")), []
    return None, [("unknown-palette", "colours of no known palette: used as they are")]
