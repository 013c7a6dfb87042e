"""One procedural colonoscopy-like frame: relief, colour, light, camera. Labels follow from what was painted.

Not a simulator. It is built so that colour alone does not solve it: red patches without relief, folds with
relief but not round, residue and instruments are background; a part of the polyps differs from the mucosa
around them by relief and texture only.
"""

from functools import partial

import numpy as np
from scipy import ndimage

from pipeline.datasets.procedural.shapes import Draw, blob, dome, field, grid, smoothstep
from pipeline.types import Size
from sward import seeds

BACKGROUND, POLYP, INSTRUMENT, LUMEN = range(4)
VERSION = 1  # raise when a change alters pixels: generated sets are told apart by it

PALE, PINK, RED = np.array([[0.86, 0.62, 0.50], [0.80, 0.47, 0.38], [0.68, 0.31, 0.24]], np.float32)
VESSEL = np.array([-0.16, -0.17, -0.12], np.float32)
RESIDUE = np.array([0.74, 0.62, 0.25], np.float32)
METAL = np.array([0.62, 0.66, 0.70], np.float32)
TINTS = np.array([[0.05, -0.17, -0.13], [0.12, 0.14, 0.12], [-0.16, -0.15, -0.07], [0.07, 0.02, -0.10]], np.float32)


def paint(seed: int, index: int, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Frame ``index`` of the family ``seed``: RGB (H, W, 3) uint8 and labels (H, W) uint8 in 0..3."""
    draw: Draw = partial(_uniforms, seed, index)
    label = np.zeros(size, np.uint8)
    relief = _mucosa_relief(draw, size)
    colour = _mucosa_colour(draw, size)
    relief, colour = _distractors(draw, size, relief, colour)
    relief, colour, polyps = _polyps(draw, size, relief, colour)
    dark = _lumen(draw, size)
    label[dark > 0.55] = LUMEN
    label[polyps & (dark <= 0.55)] = POLYP
    image = colour * _light(draw, size, relief, dark)[..., None]
    image, rod = _instrument(draw, size, image)
    label[rod] = INSTRUMENT
    image = _highlights(draw, size, image, relief)
    image, outside = _camera(draw, size, image)
    label[outside] = BACKGROUND
    return image, label


def _uniforms(seed: int, index: int, what: str, n: int) -> np.ndarray:
    return seeds.uniforms(n, "procedural", seed, index, what)


def _between(draw: Draw, what: str, *ranges: tuple[float, float]) -> list[float]:
    return [float(low + u * (high - low)) for u, (low, high) in zip(draw(what, len(ranges)), ranges, strict=True)]


def _mucosa_relief(draw: Draw, size: Size) -> np.ndarray:
    """Undulation and the crescent folds around the axis of the tube."""
    count, phase, strength = _between(draw, "folds", (2.5, 6.0), (0, 6.28), (0.0, 0.05))
    axis = _somewhere(draw, "lumen place", size, (0.10, 0.24), (1.0, 1.8))  # the lumen's, seen or not
    depth = np.log(axis + 0.6) * count + 0.8 * field(draw, "fold warp", size, 3) + phase
    ridge = (0.5 + 0.5 * np.sin(2 * depth)) ** 3 * smoothstep(axis, 0.6, 1.4)
    ridge *= smoothstep(field(draw, "fold reach", size, 2), -0.6, 0.6)
    return 0.035 * field(draw, "undulation", size, 2.5) + strength * ridge + 0.0012 * field(draw, "grain", size, 40)


def _mucosa_colour(draw: Draw, size: Size) -> np.ndarray:
    tone, mottle, vessels = _between(draw, "mucosa", (0, 2), (0.02, 0.07), (0.2, 1.0))
    base = PALE + (PINK - PALE) * min(tone, 1) + (RED - PINK) * max(tone - 1, 0)
    large, fine = field(draw, "blotches", size, 4), field(draw, "mottle", size, 18)
    colour = base + mottle * (large[..., None] * np.array([0.7, 1.0, 0.8]) + 0.5 * fine[..., None])
    network = np.abs(field(draw, "vessels", size, 6) + 0.35 * field(draw, "fine vessels", size, 14))
    thin = smoothstep(network, 0.09, 0.0) * smoothstep(field(draw, "vessel reach", size, 2.5), -0.3, 0.7)
    return (colour + vessels * thin[..., None] * VESSEL).astype(np.float32)


def _distractors(draw: Draw, size: Size, relief: np.ndarray, colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat patches in the polyps' tints, long folds with the polyps' relief, residue: all background."""
    for number in range(int(draw("patches", 1)[0] * 3)):
        distance = _somewhere(draw, f"patch {number}", size, (0.08, 0.25), (1.0, 2.0))
        pick, amount = _between(draw, f"patch colour {number}", (0, len(TINTS)), (0.4, 1.0))
        colour = colour + amount * smoothstep(distance, 1.1, 0.6)[..., None] * TINTS[int(pick)]
    for number in range(int(draw("ridges", 1)[0] * 3)):
        distance = _somewhere(draw, f"ridge {number}", size, (0.12, 0.24), (3.0, 6.0))
        relief = relief + 0.03 * dome(distance, 1.5)
    for number in range(int(draw("residue", 1)[0] * 2.4)):
        distance = _somewhere(draw, f"residue {number}", size, (0.03, 0.12), (1.0, 3.0))
        cover = 0.7 * smoothstep(distance + 0.25 * field(draw, f"residue edge {number}", size, 12), 1.1, 0.7)
        colour = colour + cover[..., None] * (RESIDUE - colour)
    return relief, colour


def _somewhere(
    draw: Draw, what: str, size: Size, radii: tuple[float, float], stretches: tuple[float, float]
) -> np.ndarray:
    tall, wide = (n / min(size) for n in size)
    cy, cx, angle = _between(draw, what, (0.1 * tall, 0.9 * tall), (0.1 * wide, 0.9 * wide), (0, 3.14))
    radius, stretch = _between(draw, what + " form", radii, stretches)
    return blob(size, (cy, cx), radius, stretch, angle, draw(what + " outline", 3))


def _polyps(
    draw: Draw, size: Size, relief: np.ndarray, colour: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """0 to 3 domes (8, 62, 22, 8 % of the frames), each with its own size, tint, texture and sharpness."""
    inside = np.zeros(size, bool)
    for number in range(int(np.searchsorted([0.08, 0.70, 0.92], draw("polyps", 1)[0], side="right"))):
        what = f"polyp {number}"
        distance = _somewhere(draw, what, size, (0.07, 0.26), (1.0, 1.7))
        pick, tint, steep, high, soft, pits, scale, own = _between(
            draw,
            what + " look",
            (0, len(TINTS)),
            (0, 1),
            (0.7, 1.6),
            (0.25, 0.6),
            (0.05, 0.35),
            (0, 1),
            (18, 34),
            (0, 1),
        )
        cover = smoothstep(distance, 1 + soft / 2, 1 - soft)[..., None]
        smooth = _blurred(colour, 0.05)  # vessels end at the polyp
        texture = 0.02 + 0.05 * pits * pits
        skin = texture * field(draw, what + " skin", size, round(scale))[..., None]
        skin = smooth + tint**1.5 * TINTS[int(pick)] + skin
        colour = colour + cover * (skin - colour) * (0.6 + 0.4 * own)
        radius = float(np.sqrt((distance < 1).mean() * size[0] * size[1] / 3.14)) / min(size)
        relief = relief + high * radius * dome(distance, steep)
        relief = relief - 0.05 * radius * smoothstep(np.abs(distance - 1.05), 0.30, 0.0)  # the groove at its foot
        inside |= distance < 1
    return relief, colour, inside


def _blurred(image: np.ndarray, radius: float) -> np.ndarray:
    sigma = radius * min(image.shape[:2])
    return ndimage.gaussian_filter(image, (sigma, sigma, 0))


def _lumen(draw: Draw, size: Size) -> np.ndarray:
    """(H, W) darkness in [0, 1] of the tube's far end; absent in two frames of five."""
    if draw("lumen", 1)[0] < 0.4:
        return np.zeros(size, np.float32)
    distance = _somewhere(draw, "lumen place", size, (0.10, 0.24), (1.0, 1.8))
    return smoothstep(distance + 0.12 * field(draw, "lumen edge", size, 6), 1.25, 0.55).astype(np.float32)


def _light(draw: Draw, size: Size, relief: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """(H, W) light from the tip of the endoscope: slope, distance, vignette, the dark lumen."""
    y, x = grid(size)
    ly, lx, exposure, fall = _between(draw, "light", (-0.6, 0.6), (-0.6, 0.6), (0.8, 1.15), (0.15, 0.55))
    gy, gx = np.gradient(relief * min(size))
    slope = (1 - ly * gy - lx * gx) / np.sqrt(1 + gy**2 + gx**2)
    middle = np.hypot(y - y.mean(), x - x.mean()) / 0.7
    far = 1 - fall * smoothstep(middle, 0.2, 1.3) + 0.10 * field(draw, "distance", size, 1.5)
    return (exposure * np.clip(slope, 0.15, 1.5) * np.clip(far, 0.2, 1.2) * (1 - 0.85 * dark)).astype(np.float32)


def _instrument(draw: Draw, size: Size, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A grey rod from the border into one frame of four."""
    tip_y, tip_x, angle, half, shine = _between(
        draw, "rod", (0.25, 0.75), (0.3, 0.9), (0, 6.28), (0.025, 0.06), (0.2, 0.5)
    )
    if draw("instrument", 1)[0] >= 0.25:
        return image, np.zeros(size, bool)
    y, x = grid(size)
    along = (x - tip_x) * np.cos(angle) + (y - tip_y) * np.sin(angle)
    across = ((y - tip_y) * np.cos(angle) - (x - tip_x) * np.sin(angle)) / half
    rod = (np.abs(across) < 1) & (along > 0)
    profile = np.sqrt(np.clip(1 - across**2, 0, 1)) * 0.8 + shine * np.exp(-(((across - 0.3) / 0.2) ** 2))
    return np.where(rod[..., None], profile[..., None] * METAL, image).astype(np.float32), rod


def _highlights(draw: Draw, size: Size, image: np.ndarray, relief: np.ndarray) -> np.ndarray:
    """Specular spots where the wet surface faces the lamp, by chance and on the tops of the relief."""
    gy, gx = np.gradient(ndimage.gaussian_filter(relief, 1.0) * min(size))
    wet = field(draw, "wet", size, 22) + 0.6 * field(draw, "wetter", size, 9)
    top = relief - ndimage.gaussian_filter(relief, 0.12 * min(size))
    amount = _between(draw, "wetness", (1.7, 2.7))[0]
    spots = smoothstep(wet + 9 * np.clip(top, -0.05, 0.08) - 1.5 * np.hypot(gy, gx), amount - 0.12, amount + 0.25)
    return image + ndimage.gaussian_filter(spots, 0.5)[..., None] * (1.05 - image)


def _camera(draw: Draw, size: Size, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blur, gamma, noise, 8 bits, and in half of the frames the black corners of the optics."""
    blur, gamma, noise, corner, framed = _between(
        draw, "camera", (0.003, 0.006), (0.85, 1.2), (0.004, 0.018), (0.60, 0.75), (0, 1)
    )
    image = np.clip(_blurred(image, blur), 0, 1) ** gamma
    image += noise * 3.46 * (draw("noise", image.size).reshape(image.shape) - 0.5)  # 3.46: unit deviation
    y, x = grid(size)
    beyond = np.hypot(y - y.mean(), x - x.mean()) > corner * max(size) / min(size)
    outside = beyond if framed > 0.5 else np.zeros(size, bool)
    image[outside] = 0.02
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), outside
