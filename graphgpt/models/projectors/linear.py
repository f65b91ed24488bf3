"""GraphGPT's projector: one linear layer."""

from collections.abc import Sequence

from torch import Tensor, nn

from graphgpt.models.projector import Projector, ProjectorConfig
from graphgpt.registry import PROJECTORS
from graphgpt.schema import configclass


@PROJECTORS.register("linear")
class Linear(Projector):
    """One linear layer with bias (GraphGPT, arXiv:2310.13023, section 3.2)."""

    @configclass
    class Config(ProjectorConfig):
        pass

    def __init__(self, config: Config, input_dim: int, output_dim: int, target_rms: float) -> None:
        super().__init__(config, input_dim, output_dim, target_rms)
        self.linear = nn.Linear(input_dim, output_dim)
        nn.init.normal_(self.linear.weight, std=target_rms * input_dim**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        tokens: Tensor = self.linear(self.dropout(states))
        return tokens
