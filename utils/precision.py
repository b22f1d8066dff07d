"""Mixed precision and determinism: bfloat16 on devices that multiply in it, on other GPUs float16 with a scaled loss;
the same bits twice on GPUs by `--deterministic`, on CPUs by `--seed` alone."""

import os
from contextlib import contextmanager

import torch

from formats.errors import InputError


def half_type(device: torch.device, amp: bool | str = True) -> torch.dtype | None:
    """The 16-bit type that `--amp` True, False or cpu (on CPUs, too) means on a device; None where it is none, or the
    device would gain nothing."""
    if amp and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if amp == "cpu" and torch.cpu._is_avx512_bf16_supported() else None


def autocast(device: torch.device, enabled: bool | str) -> torch.autocast:
    """Mixed precision where the device has it and it is `enabled`; full precision elsewhere. See `half_type`."""
    dtype = half_type(device, enabled)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def loss_scaler(device: torch.device, enabled: bool | str) -> torch.amp.GradScaler:
    """Keeps small float16 gradients above zero; does nothing with any other type."""
    return torch.amp.GradScaler(device.type, enabled=half_type(device, enabled) == torch.float16)


def multiply_in_tf32(wanted: bool) -> None:
    """Whether GPUs round the factors of what stays float32 to 10 bits; by itself PyTorch does so in convolutions."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = wanted


def checked_finite(output: torch.Tensor) -> torch.Tensor:
    """What a network gives; raises `InputError` where it is not finite, for of it nothing sensible could be made."""
    if not output.isfinite().all():
        raise InputError(
            "the network gives numbers that are not finite: its weights have diverged (train with a lower --lr), or "
            "mixed precision is too coarse for them (--amp False, where there is this flag)"
        )
    return output


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
