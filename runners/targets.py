"""Third-party leaves of the config (optimizer, callbacks, loggers), instantiated by Hydra behind an allow-list."""

from typing import Any

from graphgpt.errors import GraphGPTError

#: What a config may instantiate.
ALLOWED = ("graphgpt.", "torch.optim.", "lightning.pytorch.", "bitsandbytes.optim.")


def target_problems(node: dict[str, Any] | None, key: str) -> list[str]:
    """What is wrong with a leaf's ``_target_``: one sentence, or none."""
    target = str((node or {}).get("_target_", ""))
    if node is None or target.startswith(ALLOWED):
        return []
    return [f"{key}._target_: '{target}' is not allowed; it must begin with one of {', '.join(ALLOWED)}."]


def build_leaf(node: dict[str, Any], key: str, **arguments: Any) -> Any:
    """Instantiate a leaf.

    Raises:
        GraphGPTError: its ``_target_`` is outside the allow-list.
    """
    from hydra.utils import instantiate

    for problem in target_problems(node, key):
        raise GraphGPTError(problem)
    return instantiate(node, _convert_="all", **arguments)
