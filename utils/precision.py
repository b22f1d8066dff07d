"""Mixed precision, TF32 and deterministic algorithms.

Mixed precision uses bfloat16 on devices that support it, and float16 with a scaled loss on other GPUs. `--seed` alone
repeats results on CPUs; on GPUs `--deterministic` is needed too.
"""

import os
from contextlib import contextmanager

import torch

from formats.errors import InputError


def half_type(device: torch.device, amp: bool | str = True) -> torch.dtype | None:
    """The 16-bit type of mixed precision on a device, None for full precision.

    amp: value of `--amp`: True (GPUs only), False, or "cpu" (also CPUs that multiply in bfloat16).
    """
    if amp and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if amp == "cpu" and torch.cpu._is_avx512_bf16_supported() else None


def autocast(device: torch.device, enabled: bool | str) -> torch.autocast:
    """Autocast to `half_type`; no effect where that is None."""
    dtype = half_type(device, enabled)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def loss_scaler(device: torch.device, enabled: bool | str) -> torch.amp.GradScaler:
    """A gradient scaler for float16, in which small gradients underflow; disabled for other types."""
    return torch.amp.GradScaler(device.type, enabled=half_type(device, enabled) == torch.float16)


def allow_tf32(enabled: bool) -> None:
    """Allow or forbid TF32 (10-bit mantissa of the inputs) in matrix products and convolutions on GPUs."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = enabled


def require_finite(output: torch.Tensor) -> torch.Tensor:
    """Return `output`. Raises `InputError` if it is not finite."""
    if not output.isfinite().all():
        raise InputError("the network gives numbers that are not finite: train with a lower --lr, or set --amp False")
    return output


def compute_deterministically(enabled: bool) -> None:
    """Select deterministic algorithms without TF32, or the defaults with TF32; call it before any computation."""
    allow_tf32(not enabled)
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(enabled, warn_only=True)  # warns where there is no deterministic algorithm


@contextmanager
def fastest_convolutions():
    """Let cuDNN time its algorithms for each new input size and keep the fastest; also a decorator.

    The choice may differ between runs. For images of many sizes, as in validation, timing costs more than it saves.
    """
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False
