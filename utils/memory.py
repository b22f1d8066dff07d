"""Device memory: tensor layout, batch sizes, and errors when it is full."""

import ctypes
import sys
from contextlib import contextmanager

import torch

from formats.errors import InputError, first_line

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
FULL_BATCH_PX = 1_000_000  # largest image, at its largest scale, of which a whole batch is assumed to fit
WHOLE_IMAGES_ADVICE = "validation uses whole images: remove the largest from --val_list"
MEMORY_ERRORS = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the faster layout for training ResNeSts on a device: channels last on GPUs, contiguous on CPUs."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def choose_batch_size(requested: int, device: torch.device, on_gpu: int) -> int:
    """`requested` images per forward pass; for 0, `on_gpu` images on GPUs and one on CPUs."""
    return requested or (on_gpu if device.type == "cuda" else 1)


def batch_by_size(sizes_hw: list[tuple[int, int]], batch_size: int, largest_scale: float = 1.0) -> list[list[int]]:
    """Group images of equal size into batches, ordered by their first image: sizes [(H, W)] → indices.

    Batches of images with more than `FULL_BATCH_PX` pixels at their largest scale are smaller.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size_hw in enumerate(sizes_hw):
        groups.setdefault(tuple(size_hw), []).append(index)
    batches = []
    for (height, width), group in groups.items():
        px = largest_scale**2 * height * width
        count = max(1, int(min(batch_size, batch_size * FULL_BATCH_PX / px)))
        batches += [group[first : first + count] for first in range(0, len(group), count)]
    return sorted(batches)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory in this process: new pages for every layer take a tenth of CPU inference."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(parameter, 2**31 - 1)


@contextmanager
def advise_on_full_memory(advice: str):
    """Turn an out-of-memory error of the device into an `InputError` with `advice`; also a decorator."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(text in str(error) for text in MEMORY_ERRORS):
            raise
        raise InputError(f"the device has too little memory ({first_line(error)}): {advice}") from error
