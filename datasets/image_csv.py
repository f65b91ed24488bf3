"""Pictures of a user's own, in a table."""

from collections.abc import Iterator
from pathlib import Path

from graphgpt.errors import DataError, nearest
from graphgpt.files.atomic import file_sha256, fingerprint
from graphgpt.graphs.tables import Table, missing_files, open_table, with_progress
from graphgpt.images import dataset as base
from graphgpt.images.collection import Picture, write_collection
from graphgpt.images.dataset import Checked, FilesConfig, ImageDataset
from graphgpt.images.picture import within
from graphgpt.registry import DATASETS
from graphgpt.schema import SPLITS, UserPath, configclass


@configclass
class ImageTableConfig(FilesConfig):
    path: UserPath
    """CSV or Parquet file with the column ``image``, and perhaps ``id``, ``title``, ``body``, ``label`` and ``split``."""
    images: UserPath | None = None
    """Folder that the files in ``image`` are named from; null takes the table's own. Nothing outside of it is read."""


@DATASETS.register("image_csv")
class ImageTable(ImageDataset):
    """A row for each picture: ``image`` is its file, ``title`` and ``body`` its texts, ``label`` its class (empty: none)."""

    Config = ImageTableConfig
    config: ImageTableConfig

    @classmethod
    def problems(cls, config: ImageTableConfig) -> list[str]:
        found = [*super().problems(config), *missing_files({"dataset.path": config.path})]
        if config.images is not None and not Path(config.images).is_dir():
            found.append(f"dataset.images: there is no folder {config.images}.")
        return found

    @property
    def images(self) -> Path:
        """Where the pictures lie."""
        return Path(self.config.images or Path(self.config.path).parent)

    def fingerprint(self) -> str:
        # Of the pictures their sizes and dates: they may be many.
        files = []
        for _, name in self._rows():
            file = self.images / name["image"]
            files.append((str(file), (status := file.stat()).st_size, status.st_mtime_ns) if file.is_file() else str(file))
        readers = [file_sha256(Path(file)) for file in (__file__, base.__file__)]
        return fingerprint(readers, file_sha256(Path(self.config.path)), files, self.config.on_bad)

    def _rows(self) -> Iterator[tuple[str, dict[str, str]]]:
        table: Table = open_table(Path(self.config.path), required=("image",), optional=("id", "title", "body", "label", "split"))
        for places, columns in with_progress(table, Path(self.config.path)):
            for number, place in enumerate(places):
                yield table.at(place), {name: values[number].strip() for name, values in columns.items()}

    def write(self, folder: Path) -> None:
        checked = Checked(self.config.on_bad)
        pictures = checked(self._pictures())
        write_collection(folder, pictures, name=Path(self.config.path).stem, notes=checked.notes)

    def _pictures(self) -> Iterator[tuple[str, Picture]]:
        for record, row in self._rows():
            if row["split"] and row["split"] not in SPLITS:
                raise DataError(f"{record}: the split '{row['split']}' is unknown. {nearest(row['split'], SPLITS)}")
            title = row["title"] or Path(row["image"]).stem.replace("_", " ").replace("-", " ")
            yield (
                record,
                Picture(
                    id=row["id"] or row["image"],
                    path=within(self.images, row["image"], record),
                    title=title,
                    body=row["body"],
                    label=row["label"],
                    split=row["split"],
                ),
            )
