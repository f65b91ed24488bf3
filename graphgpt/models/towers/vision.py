"""Any vision transformer of Hugging Face's, from a hub id or a folder."""

from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from graphgpt.errors import DataError, GraphGPTError, first_line
from graphgpt.files.untrusted import unloadable
from graphgpt.models.image_tower import ImageTower, ImageTowerConfig, Preparation
from graphgpt.registry import TOWERS
from graphgpt.schema import UserPath, configclass

#: What a picture's states are: of its patches, of the class token and its patches, of the class token alone.
Feature = Literal["patch", "cls_patch", "cls"]


@TOWERS.register("vision")
class Vision(ImageTower):
    """The hidden states of a vision transformer's patches: CLIP, SigLIP, DINOv2 and whatever transformers has a vision model for.

    Of a model of pictures and texts the vision part alone is loaded. Pixels are made as the model's own image processor says: size,
    crop, filter, mean and deviation. Code of the folder is never run, and weights are read as safetensors alone.
    """

    @configclass
    class Config(ImageTowerConfig):
        path: UserPath
        """Hub id or local folder."""
        revision: str | None = None
        """Branch, tag or commit on the hub."""
        layer: int = -2
        """Which hidden states: 0 the embeddings, k those of layer k; counted from the end if negative. LLaVA takes the last but one."""
        feature: Feature = "patch"
        """Of the patches, of the class token and the patches, or of the class token alone."""

    def __init__(self, config: Config, input_dim: int = 0) -> None:
        super().__init__(config, input_dim)
        self.model, processing = _loaded(config)
        own = self.model.config
        depth = own.num_hidden_layers
        if not -depth - 1 <= config.layer <= depth:
            raise GraphGPTError(f"model.tower.layer: there is no layer {config.layer}; {config.path} takes {-depth - 1} to {depth}.")
        self.prepare, mean, deviation = _preparation(config, processing, own.image_size)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)
        self.patches = (self.prepare.size // own.patch_size) ** 2
        self.states = {"patch": self.patches, "cls_patch": self.patches + 1, "cls": 1}[config.feature]
        self.output_dim = own.hidden_size
        with torch.device(next(self.model.parameters()).device), torch.no_grad():
            length = self._hidden(torch.zeros(1, 3, self.prepare.size, self.prepare.size, dtype=torch.uint8)).shape[1]
        if config.feature != "patch" and length == self.patches:
            raise GraphGPTError(f"model.tower.feature={config.feature}: {config.path} has no class token; use model.tower.feature=patch.")

    mean: Tensor
    deviation: Tensor

    def _hidden(self, pixels: Tensor) -> Tensor:
        """All hidden states of the chosen layer, shape ``[k, tokens, output_dim]``."""
        dtype = next(self.model.parameters()).dtype
        normal = (pixels.to(dtype) / 255 - self.mean.to(dtype)) / self.deviation.to(dtype)
        found: Tensor = self.model(pixel_values=normal, output_hidden_states=True).hidden_states[self.config.layer]
        return found

    def encode(self, pixels: Tensor) -> Tensor:
        """States, shape ``[k, states, output_dim]``; registers (arXiv:2309.16588) are none of them."""
        hidden = self._hidden(pixels)
        patches = hidden[:, hidden.shape[1] - self.patches :]
        if self.config.feature == "patch":
            return patches
        return hidden[:, :1] if self.config.feature == "cls" else torch.cat([hidden[:, :1], patches], dim=1)


def _loaded(config: Vision.Config) -> tuple[Any, dict[str, Any]]:
    """A model's vision part and the settings of its image processor.

    Raises:
        DataError: it cannot be found or reached, is damaged, has no vision part, or would run code of its folder.
    """
    from transformers import MODEL_MAPPING, AutoConfig
    from transformers.image_processing_base import ImageProcessingMixin

    where: dict[str, Any] = {"revision": config.revision}
    try:
        whole = AutoConfig.from_pretrained(config.path, trust_remote_code=False, **where)
        own = getattr(whole, "vision_config", whole)
        if not hasattr(own, "patch_size") or type(own) not in MODEL_MAPPING:
            raise DataError(f"model.tower.path: {config.path} is a '{whole.model_type}', which has no vision transformer.")
        cls: Any = MODEL_MAPPING[type(own)]
        if torch.get_default_device().type == "meta":
            model = cls(own)
        else:
            model = cls.from_pretrained(config.path, config=own, use_safetensors=True, attn_implementation="sdpa", **where)
        processing, _ = ImageProcessingMixin.get_image_processor_dict(config.path, **where)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"model.tower.path: {config.path} cannot be loaded: {unloadable(config.path, error)}") from error
    return model.eval(), processing


def _preparation(config: Vision.Config, processing: dict[str, Any], size: int) -> tuple[Preparation, list[float], list[float]]:
    """How an image processor makes pixels, and their mean and deviation as shares of white."""
    try:
        scale = processing.get("rescale_factor", 1 / 255) * 255 if processing.get("do_rescale", True) else 255
        mean, deviation = ([0.0] * 3, [1.0] * 3)
        if processing.get("do_normalize", True):
            mean, deviation = processing["image_mean"], processing["image_std"]
        mean, deviation = [one / scale for one in mean], [one / scale for one in deviation]
        asked = processing.get("size", size)
        crop = bool(processing.get("do_center_crop", False))
        edge = int(asked.get("shortest_edge") or min(asked["height"], asked["width"])) if isinstance(asked, dict) else int(str(asked))
        cropped = processing.get("crop_size", edge)
        side = int(cropped["height"] if isinstance(cropped, dict) else cropped) if crop else edge
        resample = int(processing.get("resample", Image.Resampling.BICUBIC))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"model.tower.path: {config.path} has an image processor that cannot be followed ({first_line(error)}).") from error
    return (
        Preparation(size=side, crop=crop or (isinstance(asked, dict) and "shortest_edge" in asked), edge=edge, resample=resample),
        mean,
        deviation,
    )
