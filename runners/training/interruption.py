"""A run that is asked to stop, or that loses a process, ends at once and says how to go on."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import Popen
from types import FrameType
from typing import Any

import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from graphgpt.errors import GraphGPTError, Interrupted, first_line
from graphgpt.machine.installation import typed


class Interruption(Callback):
    """Ends training between two steps when a signal asks for it (Ctrl-C, or SIGTERM of a scheduler), with a resumable checkpoint.

    A second Ctrl-C does not wait for the step. Where Lightning started the other processes, their death ends the run within
    seconds, for those that are left would wait for them.

    Args:
        folder: Run folder.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and launcher.procs:
            for thread in threading.enumerate():
                # Lightning's own watch would, one time in ten, be first, and kill this process before it has said a word.
                if isinstance(thread, _ChildProcessObserver):
                    thread._child_processes = []
            threading.Thread(target=_watch, args=(launcher.procs, self._how_to_go_on()), daemon=True).start()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            print(f"Stopped at once. {self._how_to_go_on()}", file=sys.stderr)
            os._exit(130)
        self._asked = True
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("\nStopping after this step; once more to stop at once.", file=sys.stderr)

    def on_train_batch_start(self, trainer: Trainer, *arguments: Any) -> None:
        """Here, and not at the end of the step before, whose figures are only logged after that."""
        # Every process has to know, or those that were not asked would wait for the others.
        asked = self._asked if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(self._asked, all=False)
        if not asked:
            return
        checkpoint = self.folder / "resume" / f"step={trainer.global_step}.ckpt"
        if not trainer.strategy.broadcast(checkpoint.exists()):
            trainer.save_checkpoint(checkpoint, weights_only=False)  # its default it would mention
        raise Interrupted(f"Stopped after step {trainer.global_step} of {trainer.max_steps}. {self._how_to_go_on()}")

    @contextlib.contextmanager
    def of_contact(self) -> Iterator[None]:
        """Says in a sentence what a collective that lost another process says in many lines.

        Raises:
            GraphGPTError: another process is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
                raise
            # Whoever started the others sees within this time which of them it was, and ends the program.
            time.sleep(2)
            raise GraphGPTError(f"Another process of this run is gone ({first_line(error)}). {self._how_to_go_on()}") from error

    def _how_to_go_on(self) -> str:
        return "To go on: " + typed("train", f"resume={self.folder}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._give_back()

    def _give_back(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


def _watch(others: Sequence["Popen[bytes]"], how_to_go_on: str) -> None:
    """End this process and all others when one of them dies; between collectives no exception would reach it."""
    while None in (codes := [process.poll() for process in others]) or any(codes):
        for rank, code in enumerate(codes, start=1):
            if code:
                print(f"Process {rank} of {len(others) + 1} died with exit code {code}: the run ends. {how_to_go_on}", file=sys.stderr)
                sys.stderr.flush()
                for other in others:
                    other.kill()
                os._exit(1)
        time.sleep(0.5)
