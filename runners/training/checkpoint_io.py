"""How resumable checkpoints reach the disk."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from graphgpt.errors import CheckpointError


class AtomicCheckpointIO(TorchCheckpointIO):
    """As Lightning's, but the file takes its name only when it is whole and on the disk.

    Lightning's own writes into the system's temporary folder and moves, which copies where that is another file system: a
    process that is killed meanwhile leaves half a file under the right name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointError: it cannot be written, such as on a full disk; those written before stay as they are.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tmp = path.with_name(path.name + ".tmp")
        try:
            with tmp.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            tmp.replace(path)
        except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError for a full disk
            tmp.unlink(missing_ok=True)
            older = sorted(file.name for file in path.parent.glob("*.ckpt"))
            kept = f"{', '.join(older)} is intact and can be resumed" if older else "there is none before it"
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise CheckpointError(f"{path} could not be written ({reason}); {kept}.") from error
