"""The same bits twice: on the CPU by `--seed` alone, on GPUs by `--deterministic`; and what is faster without it."""

import os
from contextlib import contextmanager

import torch

from utils.precision import multiply_in_tf32


def compute_deterministically(wanted: bool) -> None:
    """To be called before anything is computed. An operation that has no deterministic form is named in a warning; TF32
    is off then, and on otherwise."""
    multiply_in_tf32(not wanted)
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads when it starts
    torch.use_deterministic_algorithms(wanted, warn_only=True)


@contextmanager
def fastest_convolutions():
    """Also a decorator: inside, cuDNN tries its algorithms on each size it meets and keeps the fastest, which may be
    another the next time. Where each image has its own size, as in validation, that costs more than it saves."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
