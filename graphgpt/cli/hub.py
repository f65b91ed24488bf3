"""Checkpoints on a model hub: ``graphgpt push`` and ``graphgpt pull``."""

from pathlib import Path

from graphgpt.checkpoints.folder import verify_checkpoint
from graphgpt.errors import CheckpointError, first_line
from graphgpt.files.atomic import atomic_folder


def push(path: str | Path, repository: str, *, private: bool = False, endpoint: str | None = None) -> str:
    """Upload a checkpoint folder, after checking that it is whole.

    Args:
        path: Run or checkpoint folder.
        repository: ``OWNER/NAME``; made if it is not there yet. Who may write there is the hub's login (``hf auth login``, ``HF_TOKEN``).
        private: Whether a repository that is made can be seen by its owner alone.
        endpoint: Address of the hub; None is Hugging Face's, or ``HF_ENDPOINT``.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: the folder is damaged, or the hub does not take it.
    """
    from huggingface_hub import HfApi

    folder = verify_checkpoint(path)
    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        # Hidden and temporary files are not part of a checkpoint.
        api.upload_folder(
            repo_id=repository, folder_path=folder, ignore_patterns=[".*", "*.tmp"], commit_message=f"graphgpt: {folder.name}"
        )
    except Exception as error:  # the client's errors have no common base
        raise CheckpointError(f"{folder} could not be pushed to '{repository}': {first_line(error)}") from error
    return f"{api.endpoint}/{repository}"


def pull(repository: str, out: Path, *, revision: str | None = None, endpoint: str | None = None) -> Path:
    """Download a checkpoint folder and check that it is whole; what was downloaded before comes from the hub's cache, also offline.

    Args:
        repository: ``OWNER/NAME``.
        out: Folder to make.
        revision: Branch, tag or commit; None is the newest.
        endpoint: As for :func:`push`.

    Returns:
        ``out``.

    Raises:
        CheckpointError: ``out`` exists, the hub does not have or give the repository, or what it gives is no whole checkpoint.
    """
    import shutil

    from huggingface_hub import snapshot_download

    if out.exists():
        raise CheckpointError(f"{out} exists already; choose another folder with --out.")
    try:
        cached = Path(snapshot_download(repository, revision=revision, endpoint=endpoint))
    except Exception as error:  # as above
        raise CheckpointError(f"'{repository}' could not be pulled: {first_line(error)}") from error
    with atomic_folder(out) as tmp:
        # Copies: the cache holds links into itself.
        shutil.copytree(cached, tmp, dirs_exist_ok=True)
        verify_checkpoint(tmp)
    return out
