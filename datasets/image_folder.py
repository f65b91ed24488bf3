"""Pictures of a user's own, in a folder for each class."""

from collections.abc import Iterator
from pathlib import Path

from graphgpt.errors import DataError
from graphgpt.files.atomic import file_sha256, fingerprint
from graphgpt.images import dataset as base
from graphgpt.images.collection import Picture, write_collection
from graphgpt.images.dataset import Checked, FilesConfig, ImageDataset
from graphgpt.images.picture import FORMATS
from graphgpt.registry import DATASETS
from graphgpt.schema import SPLITS, UserPath, configclass

ENDINGS = {f".{name.lower()}" for name in (*FORMATS, "jpg", "tif")}


@configclass
class ImageFolderConfig(FilesConfig):
    path: UserPath
    """The folder: a folder for each class with its pictures, perhaps below folders called ``train``, ``val`` and ``test``."""


@DATASETS.register("image_folder")
class ImageFolder(ImageDataset):
    """A folder for each class, its pictures in it or further in; the class is called as the folder, a picture as its file."""

    Config = ImageFolderConfig
    config: ImageFolderConfig

    @classmethod
    def problems(cls, config: ImageFolderConfig) -> list[str]:
        found = super().problems(config)
        if not Path(config.path).is_dir():
            found.append(f"dataset.path: there is no folder {config.path}.")
        return found

    def fingerprint(self) -> str:
        files = [(str(file), (status := file.stat()).st_size, status.st_mtime_ns) for _, file in self._files()]
        return fingerprint([file_sha256(Path(file)) for file in (__file__, base.__file__)], files, self.config.on_bad)

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Pictures with the split that their folder names, empty for none."""
        root = Path(self.config.path)
        splits = [name for name in SPLITS if (root / name).is_dir()]
        whole = {folder.name for folder in root.iterdir() if folder.is_dir()} <= set(SPLITS)
        for split, folder in [(name, root / name) for name in splits] if splits and whole else [("", root)]:
            for file in sorted(folder.rglob("*")):
                if file.suffix.lower() in ENDINGS and file.is_file():
                    yield split, file

    def write(self, folder: Path) -> None:
        root = Path(self.config.path)
        checked = Checked(self.config.on_bad)
        pictures = checked(("", self._picture(split, file, root)) for split, file in self._files())
        if not pictures:
            raise DataError(f"{root} has no picture in it ({', '.join(sorted(ENDINGS))}).")
        write_collection(folder, pictures, name=root.resolve().name, notes=checked.notes)

    @staticmethod
    def _picture(split: str, file: Path, root: Path) -> Picture:
        inside = file.relative_to(root / split)
        label = inside.parts[0] if len(inside.parts) > 1 else ""
        words = file.stem.replace("_", " ").replace("-", " ")
        return Picture(id=file.relative_to(root).as_posix(), path=file, title=words, label=label, split=split)
