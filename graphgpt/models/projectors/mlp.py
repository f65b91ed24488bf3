"""Two linear layers with a GELU between them."""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from graphgpt.models.projector import Projector, ProjectorConfig
from graphgpt.registry import PROJECTORS
from graphgpt.schema import configclass

# Root mean square of GELU(z) for standard normal z.
GELU_RMS = 0.652


@PROJECTORS.register("mlp")
class MLP(Projector):
    """Linear, GELU, linear (LLaVA-1.5's projector, arXiv:2310.03744, section 3.2)."""

    @configclass
    class Config(ProjectorConfig):
        hidden_dim: int | None = Field(default=None, ge=1)
        """Width between the layers; None takes the language model's hidden size."""

    def __init__(self, config: Config, input_dim: int, output_dim: int, target_rms: float) -> None:
        super().__init__(config, input_dim, output_dim, target_rms)
        hidden = config.hidden_dim or output_dim
        first, second = nn.Linear(input_dim, hidden), nn.Linear(hidden, output_dim)
        for layer, std in ((first, input_dim**-0.5), (second, target_rms / GELU_RMS * hidden**-0.5)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(first, nn.GELU(), second)

    def forward(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        tokens: Tensor = self.layers(self.dropout(states))
        return tokens
