"""Training loop of every stage: steps, learning rate, weight average, log, sample strips, snapshots."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from export.atomic import write_atomically
from training.learn.device import attention, autocast
from training.learn.ema import WeightAverage, put_weights
from training.learn.muon import Muon, is_matrix

SNAPSHOT_FILE = "snapshot.pt"
LOG_FILE = "losses.jsonl"
Setting = int | float | str
LONGEST_STEP_S = 30.0  # a longer step was suspended; more of it does not count as training time


class Stage(Protocol):
    """A module to train, and its losses.

    `losses` is called once per step. Its "loss" is minimised, and the others are logged. Random numbers depend only on
    the stage's seed and `step`, so that a resumed run continues as if it had not been interrupted. `show` writes sample
    strips and returns figures to log. It is called while the module has its averaged weights.
    """

    @property
    def module(self) -> nn.Module: ...

    def losses(self, step: int, share_done: float) -> dict[str, Tensor]: ...

    def show(self, path: Path) -> dict[str, float]: ...


@dataclass(frozen=True)
class Plan:
    """Duration and learning rate of a stage.

    Attributes:
        steps: the stage ends after this many steps,
        minutes: or after this training time, whichever comes first. The learning rate follows the share done.
        learning_rate: highest rate, reached after `warmup_steps`.
        final_rate: share of the learning rate at the end, reached along a cosine.
        weight_decay: Muon's weight decay.
        average_decay: decay of the weight average.
        show_every_s, snapshot_every_s: seconds between two sample strips and between two snapshots.
    """

    steps: int
    minutes: float | None
    learning_rate: float
    warmup_steps: int = 100
    final_rate: float = 0.05
    weight_decay: float = 0.01
    average_decay: float = 0.995
    show_every_s: float = 300.0
    snapshot_every_s: float = 60.0

    def share_done(self, step: int, seconds: float) -> float:
        """Return the share of the plan, from 0 to 1, after `step` steps and `seconds` of training."""
        by_time = seconds / (60.0 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.steps, by_time))

    def rate_at(self, step: int, share_done: float) -> float:
        """Return the learning rate of a step."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * share_done))
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warmup * (self.final_rate + (1.0 - self.final_rate) * cosine)


def optimisers(module: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Create Muon for the matrices, and AdamW for the other parameters if there are any."""
    named = list(module.named_parameters())
    matrices = [parameter for name, parameter in named if is_matrix(name, parameter)]
    rest = [parameter for name, parameter in named if not is_matrix(name, parameter)]
    muon = Muon(matrices, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    if not rest:
        return [muon]
    return [muon, torch.optim.AdamW(rest, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)]


class OtherSettingsError(Exception):
    """A snapshot of a training with other settings, which cannot be continued with these."""


class Training:
    """Training of one stage, in its own folder with `snapshot.pt`, `losses.jsonl` and `step-*.png`.

    `settings` are what a snapshot must have been made with. The plan is not among them: it may be longer than before.
    """

    def __init__(
        self, stage: Stage, folder: Path, *, plan: Plan, device: torch.device, settings: Mapping[str, Setting]
    ) -> None:
        self.stage, self.folder, self.plan, self.device = stage, folder, plan, device
        self.settings = dict(settings)
        self.step, self.seconds = 0, 0.0
        self.average = WeightAverage(stage.module, decay=plan.average_decay)
        self._optimisers = optimisers(stage.module, plan)
        self._shown_s = self._saved_s = 0.0

    @property
    def share_done(self) -> float:
        """Share of the plan that is done, from 0 to 1."""
        return self.plan.share_done(self.step, self.seconds)

    def run(self) -> nn.Module:
        """Train from the snapshot, if any, to the end of the plan. Returns the module with averaged weights.

        Raises OtherSettingsError for a snapshot of other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        with tqdm(total=100, desc=self.folder.name, unit="%", bar_format=_BAR) as bar:
            try:
                while self.share_done < 1.0:
                    self._time_step(bar)
            finally:  # also after Ctrl-C, so that no work is lost
                self.save()
        return with_average(self.stage.module, self.folder)

    def save(self) -> None:
        """Write the snapshot atomically."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "module": self.stage.module.state_dict(),
            "average": self.average.weights,
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "settings": self.settings,
        }
        with write_atomically(self.folder / SNAPSHOT_FILE) as partial:
            torch.save(state, partial)
        self._saved_s = self.seconds

    def resume(self) -> None:
        """Load the snapshot in the folder, if there is one. Raises OtherSettingsError."""
        check_settings(self.folder, self.settings)
        path = self.folder / SNAPSHOT_FILE
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        self.stage.module.load_state_dict(state["module"])
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.average.weights = state["average"]
        self._shown_s = self._saved_s = self.seconds

    def _time_step(self, bar: "tqdm[Any]") -> None:
        started = time.monotonic()
        losses = self._take_step()
        self.seconds += min(time.monotonic() - started, LONGEST_STEP_S)
        bar.n = round(100 * self.share_done, 1)
        bar.set_postfix_str(f"step {self.step}, " + ", ".join(f"{name} {value:.4f}" for name, value in losses.items()))
        if self.step % 10 == 0 or self.share_done >= 1.0:
            self._log(losses)
        if self.seconds - self._shown_s > self.plan.show_every_s or self.share_done >= 1.0:
            self._show()
        if self.seconds - self._saved_s > self.plan.snapshot_every_s:
            self.save()

    def _take_step(self) -> dict[str, float]:
        rate = self.plan.rate_at(self.step, self.share_done)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        with autocast(self.device), attention(self.device):
            losses = self.stage.losses(self.step, self.share_done)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.stage.module.parameters(), 1.0)
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.stage.module, step=self.step)
        return {name: value.item() for name, value in losses.items()} | {"gradient": norm.item()}

    def _show(self) -> None:
        """Write strips and log figures of the averaged weights. The time counts towards the plan."""
        started = time.monotonic()
        self.stage.module.eval()
        with self.average.in_place_of(self.stage.module), torch.no_grad(), autocast(self.device):
            figures = self.stage.show(self.folder / f"step-{self.step:06d}.png")
        self.stage.module.train()
        self.seconds += time.monotonic() - started
        self._shown_s = self.seconds
        self._log(figures)

    def _log(self, figures: dict[str, float]) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 1)}
        line |= {name: round(value, 6) for name, value in figures.items()}
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def check_settings(folder: Path, settings: Mapping[str, Setting]) -> None:
    """Refuse a snapshot in `folder` that was made with another value of `settings`. Raises OtherSettingsError."""
    path = folder / SNAPSHOT_FILE
    if not path.exists():
        return
    made_with = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("settings", {})
    changed = [
        f"{name} was {made_with.get(name, 'not noted')} and is {value}"
        for name, value in settings.items()
        if name not in made_with or made_with[name] != value
    ]
    if changed:
        raise OtherSettingsError(
            f"{path} is of a training with other settings: {'; '.join(changed)}. Give the settings of before, name "
            f"another --work, or remove {folder} to train this stage anew."
        )


def with_average(module: nn.Module, folder: Path) -> nn.Module:
    """Load the averaged weights of the snapshot in `folder` into `module`, and return it.

    The training may still be running. Raises FileNotFoundError without a snapshot.
    """
    path = folder / SNAPSHOT_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. Train first: `python -m training {folder.name}` or `... all`.")
    weights = torch.load(path, map_location="cpu", weights_only=True)["average"]
    put_weights(module, weights=weights)
    return module


_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
