"""Straight paths between the pixels of an image: an edge on the path holds two pixels apart.

An offset (dy, dx) in px leads downwards, or to the right in the same row, so that each pair of pixels occurs once.
Images are arrays or tensors.
"""


def path_offsets(radius: int) -> list[tuple[int, int]]:
    """The offsets (dy, dx) of all neighbours nearer than `radius` px, one of each opposite two."""
    half_plane = [(dy, dx) for dy in range(radius) for dx in range(1 - radius, radius) if (dy, dx) > (0, 0)]
    return [(dy, dx) for dy, dx in half_plane if dy**2 + dx**2 < radius**2]


def path_pixels(dy: int, dx: int) -> list[tuple[int, int]]:
    """The pixels (y, x) between (0, 0) and (dy, dx), both included, that are nearer than 1 px to the line, as in IRN.

    So wide a path does not slip through a diagonal row of edge pixels.
    """
    columns = range(min(0, dx), max(0, dx) + 1)
    return [(y, x) for y in range(dy + 1) for x in columns if (dy * x - dx * y) ** 2 < dy**2 + dx**2]


def at_pairs(image, offset: tuple[int, int], pixel: tuple[int, int]):
    """A view of an image [..., H, W]: its values at one pixel of the path of every pair (p, p + offset) inside it.

    → [..., H − dy, W − |dx|] (empty where the offset does not fit), in the order of p. Pixel (0, 0) is p itself.
    """
    (dy, dx), (y, x) = offset, pixel
    height, width = max(0, image.shape[-2] - dy), max(0, image.shape[-1] - abs(dx))
    left = max(0, -dx) + x
    return image[..., y : y + height, left : left + width]
