"""Optimizers and their learning-rate schedules."""

import torch


def build_optimizer(groups: list[dict], name: str, lr: float, momentum: float = 0.0, weight_decay: float = 0.0):
    """SGD (Nesterov where there is momentum; PyTorch refuses it without), Adam or AdamW over parameter groups, each
    step in one pass over the weights, which never waits for the device.

    Each group may carry `lr_factor` on `lr` and its own `weight_decay`.
    """
    groups = [{**group, "initial_lr": lr * group.get("lr_factor", 1.0)} for group in groups]
    groups = [
        {**group, "lr": group["initial_lr"], "weight_decay": group.get("weight_decay", weight_decay)}
        for group in groups
    ]
    if name != "sgd":
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=lr, fused=True)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    if momentum > 0:
        # left to PyTorch they would hold what the memory held, if the first gradients overflow float16
        for weight in [weight for group in groups for weight in group["params"] if weight.requires_grad]:
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def parameter_groups(network: torch.nn.Module, head_factor: float, bias_factor: float) -> list[dict]:
    """Backbone and head apart, biases without weight decay: the head learns `head_factor` times as fast as the
    backbone, biases `bias_factor` times as fast as weights. The network's backbone is its attribute `backbone`."""
    groups: dict[tuple[bool, bool], list] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault((name.startswith("backbone."), name.endswith(".bias")), []).append(parameter)
    rows = []
    for (in_backbone, is_bias), parameters in groups.items():
        factor = (1.0 if in_backbone else head_factor) * (bias_factor if is_bias else 1.0)
        rows.append({"params": parameters, "lr_factor": factor} | ({"weight_decay": 0.0} if is_bias else {}))
    return rows


def step_decay(epoch: int, decay_epochs: list[int], gamma: float) -> float:
    """Factor on the learning rate in `epoch` (from 0): × gamma every so many epochs; several numbers are milestones."""
    if len(decay_epochs) == 1:
        return gamma ** (epoch // decay_epochs[0])
    return gamma ** sum(epoch >= milestone for milestone in decay_epochs)


def polynomial_decay(step: int, total_steps: int, power: float) -> float:
    """Factor on the learning rate at `step` (from 0): (1 − step / total)^power."""
    return (1 - step / total_steps) ** power


def warm_up(step: int, warmup_steps: int) -> float:
    """Factor on the learning rate at `step` (from 0): rises evenly to 1 over `warmup_steps`; none: 1."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets each group's learning rate to its `initial_lr` times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
