"""What a tower is: raw inputs in, one vector per modality token out."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NotRequired

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import TypedDict

from graphgpt.errors import CheckpointError, GraphGPTError
from graphgpt.files.atomic import folder_with, there_are
from graphgpt.files.records import Named, Origin, read_record
from graphgpt.files.tensors import load_tensors
from graphgpt.graphs.subgraph import Pool
from graphgpt.machine.installation import typed
from graphgpt.models.fit import check_fit
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.reader import TowerReader
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass

if TYPE_CHECKING:
    from torch_geometric.data import Batch

    from graphgpt.graphs.subgraph import GraphInput

EdgeDirection = Literal["as_released", "reversed", "undirected"]


@configclass
class TowerConfig:
    """What all towers have in common."""

    name: str
    """Name of a registered tower."""
    train: bool = False
    """Whether its weights are trained; a frozen tower runs in eval mode."""
    init_from: str | None = None
    """Where the weights come from: a run or checkpoint whose tower has some, such as one of stage 0, or a folder of ``graphgpt weights
    import``; null draws them. A checkpoint's own go before."""


class Tower(nn.Module, ABC):
    """Base of all towers, whatever they read; register subclasses with ``@TOWERS.register(name)``.

    Args:
        config: The tower's ``Config``.
        input_dim: Width of the raw inputs' features, 0 where the tower knows it.
    """

    Config: ClassVar[type[TowerConfig]] = TowerConfig
    modality: ClassVar[str]
    """What it reads, in one word."""
    measured: ClassVar[bool] = True
    """Whether data decide how wide its inputs are."""
    output_dim: int
    """Width of the vectors that ``forward`` returns."""
    has_weights: ClassVar[bool] = True
    """Whether there is anything in it to train, or to take from elsewhere."""

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """What is about weights or dropout, where the tower has none."""
        found, own = {}, f"model.tower.name={config.name}"
        dropout = getattr(config, "dropout", 0) > 0
        if not cls.has_weights:
            found["model.tower.init_from"] = f"changes nothing, for {own} has no weights."
            if not dropout:
                found["model.tower.train"] = f"changes nothing, for {own} has nothing to train."
        if not dropout:
            found["model.compat.tower_dropout"] = f"changes nothing, for {own} has no dropout."
        elif not (config.train or getattr(getattr(experiment.model, "compat", None), "tower_dropout", False)):
            found["model.tower.dropout"] = "acts only with model.tower.train=true, and that is false: a frozen tower has none."
        return found

    def __init__(self, config: Any, input_dim: int) -> None:
        super().__init__()
        self.config = config
        self.input_dim = input_dim

    @abstractmethod
    def reader(self) -> TowerReader:
        """What reads inputs for it, in this process or another."""

    @abstractmethod
    def forward(self, inputs: Any) -> Tensor:
        """States of all inputs of a batch, as the reader joins them, one after the other, shape ``[N, output_dim]``."""

    @abstractmethod
    def summary(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        """One vector per input out of all their states: ``[N, output_dim]`` to ``[k, output_dim]``."""


class TowerCard(TypedDict):
    """``tower.json``."""

    tower: Named
    input_dim: Annotated[int, Field(ge=0)]
    imported: NotRequired[Origin]


TOWER_CARD, TOWER_TENSORS = "tower.json", "tower.safetensors"


#: Fields of a config that say nothing about what weights a tower has.
_OF_TRAINING = ("train", "dropout", "init_from", "select_layer")


def describe_tower(config: TowerConfig, input_dim: int) -> dict[str, Any]:
    """The content of ``tower.json`` for the weights of a tower."""
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name not in _OF_TRAINING}
    return {"tower": fields, "input_dim": input_dim}


def find_tower(path: str | Path, modality: str = "graph") -> Path:
    """The folder of a tower's weights that ``path`` is or, for a run folder, holds.

    Args:
        path: Of either, or a checkpoint.
        modality: What the tower reads, for a checkpoint may hold several.

    Raises:
        CheckpointError: there is none.
    """
    for card in (TOWER_CARD, f"{modality}/{TOWER_CARD}"):
        if (found := folder_with(card, path)) is not None:
            return (found / card).parent
    makes = f"{typed('train', 'experiment=stage0')} and graphgpt weights import make one"
    others = there_are(TOWER_CARD, path) or there_are(f"{modality}/{TOWER_CARD}", path)
    raise CheckpointError(f"{path} holds no weights of a tower: it has no {TOWER_CARD} ({makes}){others}.")


def tower_card(folder: str | Path, modality: str = "graph") -> dict[str, Any]:
    """What ``tower.json`` of a folder that :func:`find_tower` finds says: ``tower``, a config's fields, and ``input_dim``.

    Raises:
        CheckpointError: there is no such file, or it cannot be read.
    """
    file = find_tower(folder, modality) / TOWER_CARD
    return dict(read_record(file, TowerCard, "the card of a tower"))


def tower_problems(config: TowerConfig) -> list[str]:
    """What keeps a tower from taking the weights that ``init_from`` names, one sentence each; reads no tensors."""
    if config.init_from is None:
        return []
    try:
        made_for = tower_card(config.init_from, TOWERS.get(config.name).modality)["tower"]
    except CheckpointError as error:
        return [f"model.tower.init_from: {error}"]
    ours = dataclasses.asdict(config)
    return [
        f"model.tower.{name}={ours.get(name)!r}: the weights of {config.init_from} are for {name}={value!r}."
        for name, value in made_for.items()
        if ours.get(name) != value
    ]


def build_tower(config: Any, facts: TaskFacts) -> Tower:
    """The tower of a config, with the weights that its ``init_from`` names, if any; frozen unless it says ``train``.

    Args:
        config: A tower's ``Config``.
        facts: Of the task: how wide its inputs are.

    Raises:
        CheckpointError: there are no such weights, or they do not fit.
        GraphGPTError: the task has no input that it could read.
    """
    cls = TOWERS.get(config.name)
    if cls.measured and cls.modality not in facts.widths:
        raise GraphGPTError(
            f"task.name: '{facts.task}' brings no {cls.modality}, so nothing tells how many features model.tower.name={config.name} has to "
            f"read; choose a model that reads no {cls.modality}."
        )
    tower: Tower = TOWERS.build(config, facts.widths.get(cls.modality, 0)).requires_grad_(config.train)
    if config.init_from is not None:
        load_tower(tower, config.init_from)
    return tower


def load_tower(tower: Tower, folder: str | Path) -> None:
    """Put the weights that a folder holds (see :func:`find_tower`) into a tower; all of them, and no others.

    Raises:
        CheckpointError: the folder is none, or its tensors do not fit.
    """
    card = tower_card(folder, tower.modality)
    if card["input_dim"] != tower.input_dim:
        raise CheckpointError(f"{folder} has a tower for {card['input_dim']} features per node; the graph has {tower.input_dim}.")
    state = load_tensors(find_tower(folder, tower.modality) / TOWER_TENSORS)
    check_fit(folder, "tower", state, tower.state_dict())
    tower.load_state_dict(state)


@dataclasses.dataclass(frozen=True)
class GraphReader:
    """Joins subgraphs into one graph without edges between them."""

    def num_states(self, item: "GraphInput") -> int:
        return item.num_tokens

    def cost(self, item: "GraphInput") -> int:
        return len(item.x)

    def collate(self, inputs: "Sequence[GraphInput]") -> "Batch":
        from torch_geometric.data import Batch, Data

        joined: Batch = Batch.from_data_list([Data(x=item.x, edge_index=item.edge_index) for item in inputs])
        sizes = torch.tensor([item.num_tokens for item in inputs])
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        pools = [item.pool or _one_node_per_token(item.num_tokens) for item in inputs]
        joined.pool_node = torch.cat([pool.node + int(first) for pool, first in zip(pools, joined.ptr, strict=False)])
        joined.pool_token = torch.cat([pool.token + int(first) for pool, first in zip(pools, starts, strict=False)])
        joined.pool_weight = torch.cat([pool.weight for pool in pools])
        joined.num_tokens = int(starts[-1])
        return joined


class GraphTower(Tower):
    """Base of towers that read subgraphs; a subclass says how the nodes of their disjoint union are encoded."""

    modality = "graph"

    def reader(self) -> TowerReader:
        return GraphReader()

    def summary(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        """Of each subgraph its first state, which is that of the node that it was sampled around."""
        sizes = torch.tensor(lengths)
        return states[(sizes.cumsum(0) - sizes).to(states.device)]

    @abstractmethod
    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """States of all nodes: features ``[N, d]`` and edges ``[2, e]`` to ``[N, output_dim]``."""

    def forward(self, inputs: "Batch") -> Tensor:
        """The tokens of all subgraphs, one after the other, shape ``[tokens, output_dim]``."""
        own = next(self.parameters(), None)
        x = inputs.x if own is None else inputs.x.to(own.dtype)
        return self.pool(self.encode(x, inputs.edge_index), inputs)

    @staticmethod
    def pool(states: Tensor, inputs: "Batch") -> Tensor:
        """Tokens as weighted sums of node states, as the inputs' ``Pool`` says: ``[N, c]`` to ``[tokens, c]``."""
        weighted = inputs.pool_weight[:, None].to(states.dtype) * states[inputs.pool_node]
        return states.new_zeros(inputs.num_tokens, states.shape[1]).index_add(0, inputs.pool_token, weighted)


def _one_node_per_token(num_tokens: int) -> Pool:
    first = torch.arange(num_tokens)
    return Pool(node=first, token=first, weight=torch.ones(num_tokens))


def orient(edge_index: Tensor, direction: EdgeDirection) -> Tensor:
    """Edges in the direction asked for, shape ``[2, e]``, int64; ``undirected`` has each edge both ways, once.

    As released, row 0 is the neighbour and row 1 the node nearer to the centre.
    """
    if direction == "as_released":
        return edge_index
    if direction == "reversed":
        return edge_index.flip(0)
    from torch_geometric.utils import coalesce

    both: Tensor = coalesce(torch.cat([edge_index, edge_index.flip(0)], dim=1))
    return both
