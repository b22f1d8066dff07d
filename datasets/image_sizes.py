"""Images grouped by their size, so that several pass a network at a time without padding."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from input_errors import InputError, first_line

MOST_PX = 1_000_000  # of an image at its largest scale: a whole batch of these is taken to fit
KINDS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # those that are decoded; Pillow would try many more


def image_size(path) -> tuple[int, int]:
    """(H, W) of an image file from its header alone, EXIF rotation ignored."""
    with opened(path, path) as image:
        return image.height, image.width


@contextmanager
def opened(file, name) -> Iterator[Image.Image]:
    """An image of which Pillow has read the header alone, from a path or a stream; `name` is for the error message."""
    try:
        with Image.open(file, formats=KINDS) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # as damage of many formats ends
        raise InputError(f"{name} is not an image that can be opened: {first_line(error)}") from None


def batches_by_size(sizes_hw: list[tuple[int, int]], batch_size: int, largest_scale: float = 1.0) -> list[list[int]]:
    """Indices of all images in batches of one size, in order of their first image. Where images have more px than
    `MOST_PX` at their largest scale, fewer make a batch, so that it takes no more memory.

    A function of the whole list alone: whoever makes a batch, and whenever, makes the same one.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size_hw in enumerate(sizes_hw):
        groups.setdefault(tuple(size_hw), []).append(index)
    batches = []
    for (height, width), group in groups.items():
        px = largest_scale**2 * height * width
        count = max(1, int(min(batch_size, batch_size * MOST_PX / px)))
        batches += [group[first : first + count] for first in range(0, len(group), count)]
    return sorted(batches)
