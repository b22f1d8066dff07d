"""Learning-rate schedules as plain functions, and how an optimizer gets their value."""

import torch


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
