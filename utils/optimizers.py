"""Optimizers by the recipes: which parameters learn how fast, and which decay."""

import torch


def build_optimizer(groups: list[dict], name: str, lr: float, momentum: float, weight_decay: float):
    """SGD (Nesterov where there is momentum; PyTorch refuses it without) or AdamW over parameter groups.

    Each group may carry `lr_factor` on `lr` and its own `weight_decay`.
    """
    groups = [{**group, "initial_lr": lr * group.get("lr_factor", 1.0)} for group in groups]
    groups = [
        {**group, "lr": group["initial_lr"], "weight_decay": group.get("weight_decay", weight_decay)}
        for group in groups
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


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
