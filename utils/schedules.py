"""Optimizers and learning-rate schedules."""

import torch


def build_optimizer(groups: list[dict], name: str, lr: float, momentum: float = 0.0, weight_decay: float = 0.0):
    """Build fused "sgd" (Nesterov if momentum > 0), "adam" or "adamw" over parameter groups.

    A group may have `lr_factor`, which multiplies `lr`, and its own `weight_decay`.
    """
    groups = [{"weight_decay": weight_decay, **group, "lr": lr * group.get("lr_factor", 1.0)} for group in groups]
    groups = [{**group, "initial_lr": group["lr"]} for group in groups]
    if name != "sgd":
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=lr, fused=True)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    if momentum > 0:
        # PyTorch leaves the buffers uninitialised when the scaler skips the first step (float16 overflow)
        for weight in [weight for group in groups for weight in group["params"] if weight.requires_grad]:
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def parameter_groups(network: torch.nn.Module, head_factor: float, bias_factor: float) -> list[dict]:
    """Parameter groups for `build_optimizer`: backbone and head, weights and biases; biases have no weight decay.

    Parameters without gradients are left out.

    The learning rate of the head is `head_factor` times that of `network.backbone`, the rate of biases `bias_factor`
    times that of weights.
    """
    groups: dict[tuple[bool, bool], list] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("backbone."), name.endswith(".bias")), []).append(parameter)
    rows = []
    for (in_backbone, is_bias), parameters in groups.items():
        factor = (1.0 if in_backbone else head_factor) * (bias_factor if is_bias else 1.0)
        rows.append({"params": parameters, "lr_factor": factor} | ({"weight_decay": 0.0} if is_bias else {}))
    return rows


def step_decay(epoch: int, decay_epochs: list[int], gamma: float) -> float:
    """Learning-rate factor in `epoch` (from 0): gamma ** (epoch // decay_epochs[0]); several values are milestones."""
    if len(decay_epochs) == 1:
        return gamma ** (epoch // decay_epochs[0])
    return gamma ** sum(epoch >= milestone for milestone in decay_epochs)


def polynomial_decay(step: int, total_steps: int, power: float) -> float:
    """Learning-rate factor at `step` (from 0): (1 − step / total_steps)^power."""
    return (1 - step / total_steps) ** power


def warm_up(step: int, warmup_steps: int) -> float:
    """Learning-rate factor at `step` (from 0): rises linearly to 1 over `warmup_steps`; 1 if there are none."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of each group to `factor` times its initial one."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
