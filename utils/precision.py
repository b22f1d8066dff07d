"""Mixed precision on GPUs: bfloat16 where they compute in it, else float16 with a scaled loss."""

import torch

from input_errors import InputError


def half_type(device: torch.device) -> torch.dtype | None:
    """The 16-bit type that the device gains from; None on the CPU."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """Mixed precision where the device has it and it is `enabled`; full precision elsewhere."""
    dtype = half_type(device)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=enabled and dtype is not None)


def loss_scaler(device: torch.device, enabled: bool) -> torch.amp.GradScaler:
    """Keeps small float16 gradients above zero; does nothing with any other type."""
    return torch.amp.GradScaler(device.type, enabled=enabled and half_type(device) == torch.float16)


def finite(output: torch.Tensor) -> torch.Tensor:
    """What a network gives; raises `InputError` where it is not finite, for of it nothing sensible could be made."""
    if not output.isfinite().all():
        raise InputError(
            "the network gives numbers that are not finite: its weights have diverged (train with a lower --lr), or "
            "mixed precision is too coarse for them (--amp False, where there is this flag)"
        )
    return output
