"""The state of a training: everything that changes during it, which a resumed run needs to continue exactly.

Random numbers are not part of it: order, augmentation and dropout of a step are functions of (seed, epoch, step,
process).
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from formats.errors import InputError
from utils.checkpoint import load_checkpoint, load_weights, save_checkpoint
from utils.distributed import agree_on_signal, min_over_processes, share_buffers, stop_distributed, sum_over_processes
from utils.interruption import Interrupted

NO_STEP = 2**62  # larger than any step
LOSS_EVERY = 10  # steps between two readings of the loss, because each one synchronises the device
RESTART_ADVICE = "start again with a lower --lr; earlier checkpoints are intact"
ASK_EVERY = 10  # steps between two checks for a signal, where a check makes several GPUs wait


class TrainingState:
    """A network with its optimizer, its loss scaler and its progress, and the loop over the batches of an epoch.

    stage        of the checkpoints: "saliency", "classification", "affinity" or "segmentation"
    settings     arguments of the function that builds the network, as saved in checkpoints
    names        names of the training images; a resumed run needs the same ones in the same order
    batches      `DistributedBatchSampler`: the images of each step
    ema          None, or timm's `ModelEmaV3`, which keeps the running mean of the weights in `ema.module`

    epoch        number of finished epochs
    step         number of finished steps of the current epoch; `loss_sums` has the sums of their losses
    total_steps  number of all finished steps
    best_score   best validation score so far, larger is better; -1 before the first one
    """

    def __init__(
        self, stage: str, settings: dict, network: nn.Module, optimizer, scaler, names: list[str], batches, ema=None
    ):
        self.stage, self.settings, self.names, self.batches = stage, settings, names, batches
        self.network, self.optimizer, self.scaler, self.ema = network, optimizer, scaler, ema
        self.device = next(network.parameters()).device
        self.epoch, self.step, self.total_steps, self.best_score = 0, 0, 0, -1.0
        self.loss_sums: dict[str, Tensor] = {}
        self.first_bad_step = torch.tensor(NO_STEP, device=self.device)  # of the epoch, whose loss is not finite
        stems = "\n".join(Path(name).stem for name in names)
        self.names_digest = hashlib.sha256(stems.encode(errors="surrogateescape")).hexdigest()

    @property
    def result(self) -> nn.Module:
        """The network to validate and to save: the running mean of the weights, if there is one."""
        return self.ema.module if self.ema is not None else self.network

    def start(self, run) -> None:
        """Continue from `run.last` if the run is resumed, and open its logs."""
        if run.resumes:
            self.load(run.last)
        run.start(logged_steps=self.total_steps - self.step)

    def batches_of_epoch(self, loader, run, title: str, save_every: int, validates: bool = False):
        """Yield the remaining batches of the epoch on the device, with a progress bar; the caller steps after each.

        The state is saved every `save_every` steps (0: never). On a signal, all processes save after the same step and
        raise `Interrupted`. `validates`: whether a validation follows the epoch. The last step of the epoch is then
        saved too, because a signal stops a validation immediately.
        """
        num_steps = len(self.batches)
        self.batches.epoch, self.batches.first_step = self.epoch, self.step
        bar = tqdm(loader, title, num_steps, initial=self.step, disable=not run.is_main, mininterval=1, leave=False)
        self.network.train()
        for batch in bar:
            key = [self.batches.seed, self.epoch, self.step, self.batches.rank]  # so that a resumed run repeats dropout
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
            yield [tensor.to(self.device, non_blocking=True) for tensor in batch]
            if self.step % LOSS_EVERY == 0:
                self.check_finite()
                bar.set_postfix(loss=f"{self.loss_sums['loss'].item() / self.step:.3f}")
            is_last = self.step == num_steps
            signum = agree_on_signal(self.device, may_wait=is_last or self.step % ASK_EVERY == 0)
            if signum or (validates if is_last else save_every and self.step % save_every == 0):
                self.save(run)
            if signum:
                run.log(f"stopped after step {self.step} of epoch {self.epoch + 1}, all of it saved: {run.last}")
                stop_distributed()  # no process ends before the main process has saved
                raise Interrupted(signum)

    def take_step(self, losses: dict[str, Tensor], clip: float = 0.0) -> None:
        """Take an optimizer step with the current gradients, and count it and its losses.

        Gradients are clipped to [-clip, clip]; 0 disables clipping. `losses` has the total under "loss".
        """
        bad_step = torch.full_like(self.first_bad_step, NO_STEP)
        bad_step.masked_fill_(~losses["loss"].detach().isfinite(), self.step)  # without waiting for the device
        self.first_bad_step = torch.minimum(self.first_bad_step, bad_step)
        self.scaler.unscale_(self.optimizer)  # so that clipping sees the gradients without the loss scale
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

    def check_finite(self) -> None:
        """Raise `InputError` with the images of the first step of the epoch whose loss was not finite."""
        step = int(min_over_processes(self.first_bad_step).item())
        if step != NO_STEP:
            images = ", ".join(self.names[index] for index in self.batches.list_indices(self.epoch, step))
            found = f"the loss is not finite in epoch {self.epoch + 1}, step {step + 1}, for the images {images}"
            raise InputError(f"{found}: check them, or {RESTART_ADVICE}")

    def finish_epoch(self) -> dict[str, float]:
        """Finish the epoch; return the mean of each loss over its steps and all processes.

        All processes then have the buffers (batch-norm statistics) of the main process, which are the saved ones.
        """
        self.check_finite()
        means = {name: value / self.step for name, value in self._sum_losses().items()}
        self.epoch, self.step, self.loss_sums = self.epoch + 1, 0, {}
        share_buffers(self.network)
        if self.ema is not None:
            share_buffers(self.ema.module)
        return means

    def improves(self, score: float | None) -> bool:
        """Return whether `score` (None without a validation) is the best so far, and store it if so."""
        if score is None or not score > self.best_score:  # NaN, where nothing could be scored, is no improvement
            return False
        self.best_score = score
        return True

    def log_best(self, run, measure: str) -> None:
        """Log how best.pth was chosen, if there was a validation: its score on these images is biased."""
        if self.best_score >= 0:
            score = f"{measure} {self.best_score:.4f}"
            run.log(f"the result is last.pth; best.pth, {score}, was chosen on the validation images")

    def save(self, run, is_best: bool = False) -> None:
        """Save `run.last`, and `run.best` if `is_best`. Every process calls it, the main process writes.

        Raises `InputError`, and saves nothing, if a loss, a weight or a batch-norm statistic is not finite.
        """
        self.check_finite()
        is_finite = torch.stack([value.isfinite().all() for value in self.network.state_dict().values()]).all()
        if not min_over_processes(is_finite.int()):  # statistics differ between processes within an epoch
            found = f"weights are not finite in epoch {self.epoch + 1} after step {self.step}"
            raise InputError(f"{found}: {RESTART_ADVICE}")
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
            "loss_sums": self._sum_losses(),
        }
        if run.is_main:
            for path in [run.best, run.last] if is_best else [run.last]:  # best first: last.pth holds its score
                save_checkpoint(path, self.stage, self.settings, self.result, training)

    def load(self, path) -> None:
        """Restore what `save` wrote. Raises `InputError` if it does not belong to this training."""
        content = load_checkpoint(path, [self.stage])
        training = content["training"]
        if training.get("names_digest") != self.names_digest:
            numbers = f"{training.get('num_samples')} then, {len(self.names)} now"
            found = f"--resume: {path} was trained on other images, or in another order ({numbers})"
            raise InputError(f"{found}: restore the list, or start a new run")
        load_weights(self.result, content["network"], path)
        if self.ema is not None:
            load_weights(self.network, training["weights"], path)
        self.optimizer.load_state_dict(training["optimizer"])
        if training["scaler"]:  # empty if the loss was not scaled
            self.scaler.load_state_dict(training["scaler"])
        self.epoch, self.step, self.total_steps = training["epoch"], training["step"], training["total_steps"]
        self.best_score = training["best_score"]
        for name, value in training["loss_sums"].items():
            self.loss_sums[name] = torch.tensor(value, dtype=torch.float64, device=self.device)

    def _sum_losses(self) -> dict[str, float]:
        """The sums of the losses over the steps of the epoch, each the mean over all processes."""
        return {name: sum_over_processes(value).item() / self.batches.size for name, value in self.loss_sums.items()}
