"""All that changes while a network is trained, and so all that a resumed run needs to go on as if never interrupted.

Randomness is no part of it: order, augmentation and dropout of a step are functions of (seed, epoch, step, process).
"""

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from formats.errors import InputError, first_line
from utils.checkpoint import load_checkpoint, load_weights, save_checkpoint
from utils.checkpoint_content import check_weights
from utils.distributed import agreed_signal, mean_over_processes, min_over_processes, share_buffers, stop_distributed
from utils.interruption import Interrupted

NEVER = 2**62  # no epoch has so many steps
PROGRESS = ("epoch", "step", "total_steps", "best_score", "num_samples", "loss_sums")
RESUMED = ("optimizer", "scaler", "weights", *PROGRESS)  # what a checkpoint must hold besides the network
ASK_EVERY = 10  # steps between two questions whether to stop, where asking makes several GPUs wait


class TrainingState:
    """A network with its optimizer, loss scaler and, if wanted, `ema`: a module that holds the running mean of the
    weights as `ema.module` (timm's ModelEmaV3).

    epoch        whole epochs done
    step         steps done of the next one, `loss_sums` the sums of their losses
    total_steps  steps done in all
    best_score   best validation score so far, larger is better
    names        of the training images; with others, or in another order, the rest would not be the same
    batches      tells which of them are in which step
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        names: list[str],
        batches,
        ema=None,
    ):
        self.network, self.optimizer, self.scaler, self.ema = network, optimizer, scaler, ema
        self.names, self.batches = names, batches
        self.epoch, self.step, self.total_steps, self.best_score = 0, 0, 0, -1.0
        self.loss_sums: dict[str, Tensor] = {}
        self.first_bad_step: Tensor | None = None  # of the epoch; NEVER where all losses are finite
        stems = "\n".join(Path(name).stem for name in names)
        self.names_digest = hashlib.sha256(stems.encode(errors="surrogateescape")).hexdigest()

    @property
    def result(self) -> nn.Module:
        """The network to score and to use: with the running mean of the weights, where there is one."""
        return self.ema.module if self.ema is not None else self.network

    def take_step(self, losses: dict[str, Tensor], clip: float = 0.0) -> None:
        """One optimizer step on the gradients at hand, cut off at ±`clip` (0: not at all); counts it and its losses."""
        self._watch(losses["loss"])
        self.scaler.unscale_(self.optimizer)  # first, so that true gradients are clipped
        if clip > 0:
            nn.utils.clip_grad_value_(self.network.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.total_steps += 1
        if self.ema is not None:
            self.ema.update(self.network, step=self.total_steps)
        for name, value in losses.items():
            self.loss_sums[name] = self.loss_sums.get(name, 0) + value.detach().double()

    def mean_loss(self) -> float:
        """Of the epoch so far, in this process; raises `InputError` if some loss was not finite, in any of them."""
        self.check_finite()
        return self.loss_sums["loss"].item() / self.step

    def check_finite(self) -> None:
        """Raises `InputError` with the names of the images of the first step whose loss was not finite."""
        if self.first_bad_step is None:
            return
        step = int(min_over_processes(self.first_bad_step).item())
        if step != NEVER:
            images = [self.names[index] for index in self.batches.indices_of(self.epoch, step)]
            raise InputError(
                f"the loss is not finite in epoch {self.epoch + 1}, step {step + 1}, of {', '.join(images)}: "
                "look at them, or start again with a lower --lr; what was saved before is intact"
            )

    def finish_epoch(self) -> dict[str, float]:
        """Closes the epoch; returns the mean of each loss over its steps and all processes.

        From here on all processes hold the buffers (batch-norm statistics) of the main one, which are those it saves.
        """
        self.check_finite()
        means = {name: value / self.step for name, value in self._summed_losses().items()}
        self.epoch, self.step, self.loss_sums = self.epoch + 1, 0, {}
        share_buffers(self.network)
        if self.ema is not None:
            share_buffers(self.ema.module)
        return means

    def improves(self, score: float | None) -> bool:
        """Whether a validation score is the best so far, which it then becomes; None: the epoch was not validated."""
        if score is None or not score > self.best_score:  # NaN, where nothing could be scored, is no improvement
            return False
        self.best_score = score
        return True

    def log_best(self, run, measure: str) -> None:
        """Says, where there was validation, what best.pth is: chosen on images that it must not be reported on."""
        if self.best_score >= 0:
            best = f"best.pth, {measure} {self.best_score:.4f}"
            run.log(f"the result is last.pth; {best}, was chosen on the validation images")

    def save_when_due(self, run, stage: str, settings: dict, every: int, validates: bool = False) -> None:
        """To be called after each step: saves every so many of them (0: never), and the last one where the epoch is
        validated then, since a signal ends that at once. An epoch that is not is saved when it is finished.

        Where a signal asks the run to end, all processes save after the same step and raise `Interrupted`.
        """
        is_last = self.step == len(self.batches)
        device = next(self.network.parameters()).device
        signum = agreed_signal(device, may_wait=is_last or self.step % ASK_EVERY == 0)
        if signum or (validates if is_last else every and self.step % every == 0):
            self.save(run, stage, settings)
        if signum:
            run.log(f"stopped after step {self.step} of epoch {self.epoch + 1}, all of it saved: {run.last}")
            stop_distributed()  # none ends before the main process has saved
            raise Interrupted(signum)

    def save(self, run, stage: str, settings: dict, is_best: bool = False) -> None:
        """Writes `run.last`, and `run.best` if it is that. Every process calls it, the main one writes.

        Raises `InputError` instead where a loss, a weight or a batch-norm statistic is not finite.
        """
        self.check_finite()
        is_finite = torch.stack([value.isfinite().all() for value in self.network.state_dict().values()]).all()
        if not min_over_processes(is_finite.int()):  # statistics differ between processes until an epoch is closed
            raise InputError(
                f"weights are not finite in epoch {self.epoch + 1} after step {self.step}: start again with a lower "
                "--lr; what was saved before is intact"
            )
        training = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "weights": self.network.state_dict() if self.ema is not None else None,
            "epoch": self.epoch,
            "step": self.step,
            "total_steps": self.total_steps,
            "best_score": self.best_score,
            "num_samples": len(self.names),
            "names_digest": self.names_digest,
            "loss_sums": self._summed_losses(),
        }
        if run.is_main:
            for path in [run.best, run.last] if is_best else [run.last]:  # best first: last.pth holds its score
                save_checkpoint(path, stage, settings, self.result, training)

    def load(self, path) -> None:
        """Restores what `save` wrote; raises `InputError` where that cannot go on with this training."""
        content = load_checkpoint(path)
        absent = [key for key in RESUMED if key not in content["training"]]
        if absent:
            raise InputError(f"--resume: {path} lacks {', '.join(absent)}, without which no training can go on")
        try:
            self._restore(content, path)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:  # of odd values
            raise InputError(f"--resume: {path} holds no state of this training: {first_line(error)}") from error

    def _restore(self, content: dict, path) -> None:
        training = content["training"]
        self._check_numbers(training)
        if training["num_samples"] != len(self.names):
            raise InputError(
                f"--resume: {path} was trained on {training['num_samples']} images, now there are {len(self.names)}: "
                "restore the data, or start a new run"
            )
        if training.get("names_digest", self.names_digest) != self.names_digest:
            raise InputError(
                f"--resume: {path} was trained on other images, or in another order of the list: restore the list, or "
                "start a new run"
            )
        load_weights(self.result, content["network"], path)
        if self.ema is not None:
            check_weights(training["weights"], path)
            load_weights(self.network, training["weights"], path)
        self._restore_optimizer(training["optimizer"], path)
        if training["scaler"]:  # empty where the loss was not scaled
            self.scaler.load_state_dict(training["scaler"])
        self.epoch, self.step, self.total_steps = training["epoch"], training["step"], training["total_steps"]
        self.best_score = training["best_score"]
        device = next(self.network.parameters()).device
        self.loss_sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device)
            for name, value in training["loss_sums"].items()
        }

    def _check_numbers(self, training: dict) -> None:
        """Raises an exception of any kind unless these are numbers in their ranges."""
        sums, step, scaler = training["loss_sums"], training["step"], training["scaler"]
        counts = [training[name] for name in ("epoch", "step", "total_steps", "num_samples")]
        if not all(type(count) is int and 0 <= count < NEVER for count in counts):
            raise ValueError("epochs, steps or images are not counts")
        if step > len(self.batches) or ("loss" in sums) != (step > 0):
            raise ValueError(f"it stopped in step {step} of {len(self.batches)}, with the losses {list(sums)}")
        if not all(map(math.isfinite, [training["best_score"], *sums.values(), *scaler.values()])):
            raise ValueError("its scores, losses or scale are not finite")
        if scaler and not (scaler["scale"] > 0 and min(scaler.values()) >= 0):
            raise ValueError("its losses are scaled by numbers below 0")

    def _restore_optimizer(self, saved: dict, path) -> None:
        """Takes the moments of each weight, and the learning rate, which is logged again where an epoch is only to be
        closed; all else in its groups follows from the options, which are the same."""
        own = self.optimizer.state_dict()
        if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in own["param_groups"]]:
            raise ValueError("its optimizer has other groups of weights")
        weights = dict(enumerate(weight for group in self.optimizer.param_groups for weight in group["params"]))
        is_sgd = isinstance(self.optimizer, torch.optim.SGD)
        names = {"momentum_buffer"} if is_sgd else {"step", "exp_avg", "exp_avg_sq"}
        for index, moments in saved["state"].items():
            present = {name: value for name, value in moments.items() if value is not None}  # as SGD without momentum
            check_weights(present, f"--resume: {path}: the optimizer's state of weight {index}")
            shapes = [() if name == "step" else weights[index].shape for name in present]
            if present and (present.keys() != names or [value.shape for value in present.values()] != shapes):
                raise ValueError(f"its optimizer's state of weight {index} is of another weight")
        groups = [mine | {"lr": theirs["lr"]} for mine, theirs in zip(own["param_groups"], saved["param_groups"])]
        if not all(math.isfinite(group["lr"]) for group in groups):
            raise ValueError("its learning rate is not finite")
        self.optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})

    def _watch(self, loss: Tensor) -> None:
        """Keeps the first step whose loss is not finite, without waiting for the device."""
        now = torch.full((), NEVER, dtype=torch.int64, device=loss.device)
        now = now.masked_fill(~loss.detach().isfinite(), self.step)
        self.first_bad_step = now if self.first_bad_step is None else torch.minimum(self.first_bad_step, now)

    def _summed_losses(self) -> dict[str, float]:
        return {name: mean_over_processes(value).item() for name, value in self.loss_sums.items()}
