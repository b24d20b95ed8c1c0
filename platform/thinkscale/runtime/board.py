"""What fine-tuning's workers and their driver tell each other, and what of it is shown.
Owns the actor between them, the progress lines and TensorBoard's curves. Knows nothing of training."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
from thinkscale.runtime import metrics
from thinkscale.runtime.progress import Progress

POLL_S = 1.0
BOARD_TIMEOUT_S = 60.0


class Board:
    """An actor between workers and driver: steps' metrics and notes one way, the wish to stop the other."""

    def __init__(self) -> None:
        self._waiting: list[dict[str, Any]] = []
        self._stop = False

    def put(self, entry: dict[str, Any]) -> None:
        self._waiting.append(entry)

    def take(self) -> list[dict[str, Any]]:
        taken, self._waiting = self._waiting, []
        return taken

    def stop(self) -> None:
        self._stop = True

    def stop_wanted(self) -> bool:
        return self._stop


def show(
    board: Any, over: threading.Event, stepping: threading.Event, tensorboard: str | None, devices: Mapping[str, float]
) -> None:
    """Print steps as they come, until the run is over and the board is empty. `stepping` is set by each. `devices`: how
    many of `cpu` and `gpu` a worker holds."""
    curves: Any = None
    if tensorboard is not None:
        from torch.utils.tensorboard import SummaryWriter

        curves = SummaryWriter(tensorboard)  # type: ignore[no-untyped-call]
    progress: Progress | None = None
    previous, since = 0, time.monotonic()
    while True:
        ending = over.wait(POLL_S)
        for step in ray.get(board.take.remote(), timeout=BOARD_TIMEOUT_S):
            if "note" in step:
                say(step["note"])
                continue
            if progress is None or step["step"] <= previous:
                if progress is not None:
                    say(f"workers were lost; step {step['step']} again, from the last checkpoint")
                progress = Progress("train", step["steps"], "steps", done=step["step"] - 1, elapsed_s=step["seconds"])
                previous = step["step"] - 1
                startup_s = (time.monotonic() - since - step["seconds"]) * step["ranks"]
                metrics.count({f"{device}_startup_s": startup_s * n for device, n in devices.items()})
                metrics.set_gauge("thinkscale_replicas", step["ranks"])
            since, busy_s = time.monotonic(), step["seconds"] * step["ranks"]
            busy = {f"{device}_busy_s": busy_s * n for device, n in devices.items()}
            metrics.count({**busy, "trained_tokens": step["tokens"]})
            mfu = f"  MFU {step['mfu']:.1%}" if step["mfu"] else ""
            note = (
                f"loss {step['loss']:.4f}  learning rate {step['learning_rate']:.2e}  "
                f"{step['tokens'] / step['seconds']:,.0f} tokens/s{mfu}"
            )
            progress.advance(step["step"] - previous, note)
            previous = step["step"]
            stepping.set()
            for name in ("loss", "learning_rate", "grad_norm", "mfu"):
                if curves is not None and step[name] is not None:
                    curves.add_scalar(f"train/{name}", step[name], step["step"])
        if ending:
            if curves is not None:
                curves.close()
            return


def say(text: str) -> None:
    """A line of the stage, apart from its steps."""
    Progress("train", 0).note(text)
