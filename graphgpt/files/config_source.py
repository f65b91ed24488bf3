"""Config files as Hydra gets to see them: the user's own before the shipped ones, and what is wrong in a file said in a sentence."""

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from graphgpt.files.configs import CONFIG_DIR, PACKAGES, own_folders, read_config_file


class ConfigFiles(FileConfigSource):
    """A folder of config files. A byte order mark is no content, and an experiment need not say that it is one."""

    @staticmethod
    def scheme() -> str:
        return "graphgpt"

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path) / self._normalize_file_name(config_path)
        if not file.exists():
            raise ConfigLoadError(f"Config not found : {file}")
        text, content = read_config_file(file)
        header = self._get_header_dict(text)
        header["package"] = header["package"] or PACKAGES.get(config_path.partition("/")[0])
        return ConfigResult(config=content, path=f"{self.scheme()}://{self.path}", provider=self.provider, header=header)


class OwnFilesFirst(SearchPathPlugin):
    """Looks for config files in the user's folders, then among the shipped ones."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            if element.provider == "main":
                element.path = f"{ConfigFiles.scheme()}://{CONFIG_DIR.resolve()}"
        for folder in own_folders():
            search_path.prepend("own", f"{ConfigFiles.scheme()}://{folder}", SearchPathQuery(provider="main"))


def register() -> None:
    """Tell Hydra, in this process."""
    for plugin in (ConfigFiles, OwnFilesFirst):
        Plugins.instance().register(plugin)
