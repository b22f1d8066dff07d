"""Parts of drawn scenes: ten classes of objects with their contexts, clutter, textures and shading.

An object is a list of parts. A part is a polygon in the object's frame (x to the right, y down, both within -1..1) with
a pattern and the index of one of the object's two colours. Contexts are painted on the background around an object.
They occur with a class, as rails occur with trains, but are not part of its mask.
"""

import cv2
import numpy as np

SUBPIXEL_BITS = 4  # polygons are drawn on a grid of 1/16 px


def ellipse(x: float, y: float, radius_x: float, radius_y: float, start_deg: float = 0, end_deg: float = 360):
    """Compute points of an elliptic arc, float [40, 2]."""
    angles = np.radians(np.linspace(start_deg, end_deg, 40))
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def box(left: float, top: float, right: float, bottom: float):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def star(points: int, inner: float):
    angles = np.pi * np.arange(2 * points) / points - np.pi / 2
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


# class → (hue of the first colour in degrees, maximum tilt in degrees, context, parts); part: (points, pattern, colour)
# fmt: off
SHAPES = {
    "ball": (250, 180, "grass", [(ellipse(0, 0, 0.8, 0.8), "sectors", 0)]),
    "boat": (35, 12, "waves", [
        ([[-1, 0.3], [1, 0.3], [0.6, 0.8], [-0.6, 0.8]], "plain", 0),
        ([[0, -0.9], [0.85, 0.3], [0, 0.3]], "plain", 1),
        ([[0, -0.75], [0, 0.3], [-0.7, 0.3]], "stripes", 1),
    ]),
    "train": (215, 8, "rails", [
        (box(-1, -0.35, 1, 0.35), "windows", 0),
        *((ellipse(x, 0.38, 0.18, 0.18), "plain", 1) for x in (-0.6, 0, 0.6)),
    ]),
    "kite": (325, 60, "clouds", [([[0, -1], [0.65, -0.2], [0, 1], [-0.65, -0.2]], "quarters", 0)]),
    "fish": (170, 40, "bubbles", [
        ([[0.5, 0], [1, -0.5], [0.9, 0], [1, 0.5]], "plain", 1),
        (ellipse(-0.1, 0, 0.8, 0.45), "bands", 0),
    ]),
    "mushroom": (0, 15, "leaves", [
        (box(-0.25, 0, 0.25, 0.85), "plain", 1),
        (ellipse(0, 0.1, 0.9, 0.85, 180, 360), "dots", 0),
    ]),
    "lamp": (90, 8, "tiles", [
        (box(-0.08, -0.1, 0.08, 0.8), "plain", 1),
        (ellipse(0, 0.85, 0.45, 0.13), "plain", 1),
        ([[-0.35, -0.9], [0.35, -0.9], [0.7, 0], [-0.7, 0]], "stripes", 0),
    ]),
    "star": (60, 180, "sparks", [(star(5, 0.42), "rings", 0)]),
    "cactus": (130, 10, "dunes", [
        ([[-0.75, -0.4], [-0.45, -0.4], [-0.45, 0], [-0.1, 0], [-0.1, 0.3], [-0.75, 0.3]], "stripes", 0),
        ([[0.75, -0.6], [0.45, -0.6], [0.45, 0.1], [0.1, 0.1], [0.1, 0.4], [0.75, 0.4]], "stripes", 0),
        (np.concatenate([ellipse(0, -0.75, 0.25, 0.2, 180, 360), box(-0.25, -0.75, 0.25, 0.9)[2:]]), "stripes", 0),
    ]),
    "butterfly": (290, 50, "flowers", [
        *((ellipse(x, -0.3, 0.5, 0.45), "rings", 0) for x in (-0.5, 0.5)),
        *((ellipse(x, 0.4, 0.35, 0.35), "dots", 0) for x in (-0.4, 0.4)),
        (ellipse(0, 0, 0.12, 0.75), "plain", 1),
    ]),
}
# fmt: on
CLASS_NAMES = tuple(SHAPES)
CONTEXTS = {name: context for name, (_, _, context, _) in SHAPES.items()}
GROUNDS = {  # context → (hue in degrees, saturation, value, period of its ripples in radii of the object, their slope)
    "waves": (205, 0.7, 0.75, 0.28, 0.0),
    "dunes": (42, 0.5, 0.85, 0.55, 0.3),
    "grass": (100, 0.65, 0.6, 0.16, 6.0),
    "tiles": (25, 0.35, 0.6, 0.4, 0.0),
}
SCATTERED = {  # context → (hue in degrees, saturation, value, size in radii of the object, outline)
    "clouds": (210, 0.08, 0.97, 0.5, ellipse(0, 0, 1.6, 0.6)),
    "bubbles": (190, 0.35, 0.95, 0.13, ellipse(0, 0, 1, 1)),
    "leaves": (85, 0.7, 0.45, 0.2, ellipse(0, 0, 1, 0.4)),
    "sparks": (60, 0.25, 1.0, 0.09, star(4, 0.3)),
    "flowers": (320, 0.6, 0.95, 0.14, star(6, 0.55)),
}


def rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def fill_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Compute the coverage of a polygon with the `points` [N, 2], px: float32 [height, width] in 0..1."""
    mask = np.zeros((height, width), np.uint8)
    fixed = np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return mask.astype(np.float32) / 255


def blend(image: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Paint `colour` on `image` [H, W, 3] in place with coverage `alpha` [H, W]."""
    image += alpha[..., None] * (colour - image)


def hsv(hue_deg: float, saturation: float, value: float) -> np.ndarray:
    """Convert a hue in degrees, saturation and value (0..1) to RGB float32 [3] in 0..1."""
    pixel = np.array([[[hue_deg % 360, saturation, value]]], np.float32)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]


def noise(rng: np.random.Generator, height: int, width: int, cell_px: float) -> np.ndarray:
    """Draw smooth noise, float32 [height, width] in 0..1, with blobs of about `cell_px`."""
    grid = rng.random((max(2, round(height / cell_px) + 1), max(2, round(width / cell_px) + 1)), np.float32)
    return np.clip(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def pattern_weight(pattern: str, u: np.ndarray, v: np.ndarray, frequency: float) -> np.ndarray:
    """Compute the share of the second colour, float32 in 0..1, at the object's coordinates `u`, `v`."""
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    waves = {
        "plain": lambda: np.full_like(u, -1),
        "stripes": lambda: np.sin(frequency * 7 * u),
        "bands": lambda: np.sin(frequency * 9 * u),
        "rings": lambda: np.sin(frequency * 9 * radius),
        "sectors": lambda: np.sin(3 * angle),
        "quarters": lambda: np.where(u * (v + 0.2) > 0, 1.0, -1.0),
        "dots": lambda: np.sin(frequency * 7 * u) * np.sin(frequency * 7 * v) * 3 - 0.8,
        "windows": lambda: np.where((np.sin(9 * u) > -0.2) & (np.abs(v + 0.1) < 0.13), 1.0, -1.0),
    }
    return np.clip(waves[pattern]() * 2 + 0.5, 0, 1).astype(np.float32)


def draw_object(rng: np.random.Generator, name: str, height: int, width: int, centre_xy, radius_px: float):
    """Draw one object: colour float32 [height, width, 3] and coverage float32 [height, width], both in 0..1."""
    hue, tilt_deg, _, parts = SHAPES[name]
    angle = np.radians(rng.uniform(-tilt_deg, tilt_deg))
    mirror = rng.choice([-1.0, 1.0])
    to_px = rotation(angle) @ np.diag([mirror * radius_px, radius_px * rng.uniform(0.8, 1.15)])
    y, x = np.mgrid[:height, :width].astype(np.float32)
    local = np.linalg.inv(to_px) @ np.stack([x.ravel() - centre_xy[0], y.ravel() - centre_xy[1]])
    u, v = local.reshape(2, height, width).astype(np.float32)

    hue = hue + rng.normal(0, 10) if rng.random() < 0.95 else rng.uniform(0, 360)
    colours = [
        hsv(hue, rng.uniform(0.55, 0.95), rng.uniform(0.65, 1)),
        hsv(hue + 180, rng.uniform(0, 0.35), rng.uniform(0.25, 1)),
    ]
    frequency = rng.uniform(0.8, 1.4)
    colour = np.zeros((height, width, 3), np.float32)
    coverage = np.zeros((height, width), np.float32)
    for points, pattern, first in parts:
        alpha = fill_polygon(np.array(points) @ to_px.T + centre_xy, height, width)
        weight = pattern_weight(pattern, u, v, frequency)[..., None]
        paint = colours[first] * (1 - weight) + colours[1 - first] * weight
        blend(colour, paint, alpha)
        coverage = np.maximum(coverage, alpha)
    return colour * shading(rng, u, v, coverage, radius_px)[..., None], coverage


def shading(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, coverage: np.ndarray, radius_px: float):
    """Compute light from one side and a darker rim, as on a round body: float32 factors, about 0.4..1.2."""
    direction = rng.uniform(0, 2 * np.pi)
    light = 0.9 + 0.22 * (np.cos(direction) * u + np.sin(direction) * v)
    depth_px = cv2.distanceTransform((coverage > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    rim = np.clip(depth_px / max(0.2 * radius_px, 1), 0, 1)
    return (np.clip(light, 0.6, 1.2) * (0.65 + 0.35 * rim)).astype(np.float32)


def draw_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a textured background, RGB float32 [height, width, 3] in 0..1."""
    size = max(height, width)
    hue, value = rng.uniform(0, 360), rng.uniform(0.25, 0.8)
    colours = [hsv(hue + rng.normal(0, 40), rng.uniform(0, 0.55), value * rng.uniform(0.7, 1.2)) for _ in range(2)]
    large = noise(rng, height, width, size * rng.uniform(0.15, 0.5))[..., None]
    image = colours[0] * (1 - large) + colours[1] * large
    grain = noise(rng, height, width, size * rng.uniform(0.015, 0.06)) - 0.5
    if rng.random() < 0.25:  # a regular texture, such as cloth or brick
        y, x = np.mgrid[:height, :width] / size
        angle, count = rng.uniform(0, np.pi), rng.uniform(40, 110)
        grain = grain + 0.4 * np.sin(count * (np.cos(angle) * x + np.sin(angle) * y))
    image = image + rng.uniform(0.05, 0.22) * grain[..., None]
    return np.clip(image, 0, 1).astype(np.float32)


def draw_clutter(rng: np.random.Generator, image: np.ndarray, count: int) -> None:
    """Draw flat polygons without shading or pattern, which a saliency network must learn to ignore."""
    height, width = image.shape[:2]
    for _ in range(count):
        centre = rng.uniform(0, 1, 2) * (width, height)
        size = rng.uniform(0.04, 0.16) * max(height, width)
        thinness = rng.choice([1.0, 0.12])
        corners = rng.integers(3, 7)
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        outline = np.stack([np.cos(angles), thinness * np.sin(angles)], axis=1) * size
        alpha = fill_polygon(outline @ rotation(rng.uniform(0, np.pi)).T + centre, height, width)
        colour = hsv(rng.uniform(0, 360), rng.uniform(0, 0.5), rng.uniform(0.15, 0.9))
        blend(image, colour, alpha * rng.uniform(0.3, 0.65))


def draw_context(rng: np.random.Generator, image: np.ndarray, kind: str, centre_xy, radius_px: float) -> None:
    """Paint the context of a class on `image` (RGB float32 [H, W, 3]) in place, around one object."""
    height, width = image.shape[:2]
    if kind in GROUNDS:
        draw_ground(rng, image, kind, centre_xy, radius_px)
    elif kind in SCATTERED:
        draw_scattered(rng, image, kind, centre_xy, radius_px)
    else:  # rails
        x0, y0 = centre_xy
        left, right = x0 - 1.7 * radius_px, x0 + 1.7 * radius_px
        for row in (0.62, 0.85):
            rail = box(left, y0 + row * radius_px, right, y0 + (row + 0.07) * radius_px)
            blend(image, hsv(30, 0.1, 0.35), fill_polygon(rail, height, width))
        for place in np.arange(left, right, 0.3 * radius_px):
            bar = box(place, y0 + 0.58 * radius_px, place + 0.09 * radius_px, y0 + 0.97 * radius_px)
            blend(image, hsv(25, 0.5, 0.4), 0.9 * fill_polygon(bar, height, width))


def draw_ground(rng: np.random.Generator, image: np.ndarray, kind: str, centre_xy, radius_px: float) -> None:
    """Paint rippled ground below the object."""
    *colour, period, slope = GROUNDS[kind]
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    wobble = 0.1 * radius_px * np.sin(x / (0.25 * radius_px) + rng.uniform(0, 6))
    ripples = np.sin((y + wobble * (kind != "tiles") + slope * x) * 2 * np.pi / (period * radius_px))
    if kind == "tiles":
        ripples = np.minimum(ripples, np.sin(x * 2 * np.pi / (period * radius_px)))
    beside = np.clip(2.2 - np.abs(x - centre_xy[0]) / (0.8 * radius_px), 0, 1)
    depth_px = y + wobble - (centre_xy[1] + 0.55 * radius_px)
    alpha = beside * np.clip(depth_px / 2, 0, 1) * np.clip((1.2 * radius_px - depth_px) / 4, 0, 1)
    blend(image, (hsv(*colour) * (0.85 + 0.25 * ripples[..., None])).astype(np.float32), 0.85 * alpha)


def draw_scattered(rng: np.random.Generator, image: np.ndarray, kind: str, centre_xy, radius_px: float) -> None:
    """Paint many small shapes around the object."""
    height, width = image.shape[:2]
    *colour, size, outline = SCATTERED[kind]
    for _ in range(5 if kind == "clouds" else 16):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.9) * radius_px
        place = centre_xy + distance * np.array([np.cos(angle), np.sin(angle)])
        radius = size * radius_px * rng.uniform(0.7, 1.3)
        alpha = fill_polygon(outline * radius + place, height, width)
        if kind == "clouds":
            alpha = 0.7 * cv2.GaussianBlur(alpha, (0, 0), 0.12 * radius_px)
        if kind == "bubbles":
            alpha = alpha - 0.7 * fill_polygon(outline * 0.6 * radius + place, height, width)
        blend(image, hsv(*colour), np.clip(0.75 * alpha, 0, 1))
