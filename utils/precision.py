"""Mixed precision where the device gains from it."""

import torch


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """bfloat16 on GPUs that compute in it; full precision elsewhere."""
    use = enabled and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=use)
