"""The config files that a command line can choose from."""

from pathlib import Path

from graphgpt.installation import CHECKOUT, PACKAGE

CONFIG_DIR = (CHECKOUT or PACKAGE) / "configs"


def is_group(key: str) -> bool:
    return "/" in key or "@" in key or (CONFIG_DIR / key).is_dir()


def config_groups() -> dict[str, list[Path]]:
    """The groups that a command line can choose from, such as ``model/tower``, each with its files."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(CONFIG_DIR.rglob("*.yaml")):
        group = path.parent.relative_to(CONFIG_DIR).as_posix()
        if group not in (".", "hydra"):
            groups.setdefault(group, []).append(path)
    return groups


def options(group: str) -> list[str]:
    """Names of a config group's files, with their sub-folders."""
    folder = CONFIG_DIR / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
