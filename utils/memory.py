"""Memory of the device: the layout of tensors in it, and what to do when it is full."""

import ctypes
import sys
from contextlib import contextmanager

import torch

from formats.errors import InputError, first_line

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names, malloc.h
MOST_PX = 1_000_000  # of an image at its largest scale: a whole batch of these is taken to fit
SIGNS_OF_FULL_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the faster layout for training on a device: channels last on GPUs, contiguous on CPUs."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def batch_for(wanted: int, device: torch.device, on_gpu: int) -> int:
    """Images that pass a network together: as many as are `wanted`; where that is 0, `on_gpu` there, 1 on CPUs."""
    return wanted or (on_gpu if device.type == "cuda" else 1)


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


def keep_freed_memory() -> None:
    """Lets this process keep what it frees for what it needs next, where the C library is glibc.

    By itself it would give large blocks back, and every layer of a network on the CPU would wait for new pages.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(parameter, 2**31 - 1)


@contextmanager
def advice_when_memory_is_full(advice: str):
    """Also a decorator: a device that runs out of memory inside becomes an `InputError` that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(s in str(error) for s in SIGNS_OF_FULL_MEMORY):
            raise
        raise InputError(f"the device has too little memory ({first_line(error)}): {advice}") from error
