"""The same bits twice: on the CPU by `--seed` alone, on GPUs by `--deterministic`."""

import os

import torch


def compute_deterministically(wanted: bool) -> None:
    """To be called before anything is computed. An operation that has no deterministic form is named in a warning."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads when it starts
    torch.use_deterministic_algorithms(wanted, warn_only=True)
