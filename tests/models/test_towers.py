"""Towers and projectors: exact against dense recomputations, and what every graph tower must respect."""

from typing import Any

import pytest
import torch
from helpers import parsed
from torch import Tensor

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.subgraph import GraphInput, sample_subgraph
from graphgpt.models.tower import GraphTower, orient
from graphgpt.registry import PROJECTORS, TOWERS

GRAPH_TOWERS = [name for name in TOWERS.names() if issubclass(TOWERS.get(name), GraphTower)]
DIRECTIONS = ("as_released", "reversed", "undirected")


def build(name: str, input_dim: int, seed: int = 0, **fields: Any) -> GraphTower:
    """A tower in eval mode, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower: GraphTower = TOWERS.build(parsed(TOWERS.get(name).Config, {"name": name, **fields}), input_dim)
    return tower.eval()


def random_input(nodes: int, edges: int, dim: int, seed: int, num_tokens: int | None = None) -> GraphInput:
    """Distinct directed edges without loops; some in both directions, and perhaps isolated nodes."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(nodes * nodes, generator=generator)
    pairs = pairs[pairs // nodes != pairs % nodes][:edges]
    edge_index = torch.stack([pairs // nodes, pairs % nodes])
    return GraphInput(x=torch.randn(nodes, dim, generator=generator), edge_index=edge_index, num_tokens=num_tokens or nodes)


def states(tower: GraphTower, *inputs: GraphInput) -> Tensor:
    with torch.no_grad():
        return tower(tower.collate(inputs))


def adjacency(item: GraphInput, direction: str) -> Tensor:
    """Row hears column, shape ``[k, k]``, float64."""
    matrix = torch.zeros(len(item.x), len(item.x), dtype=torch.float64)
    for row, col in item.edge_index.T.tolist():
        if direction in ("as_released", "undirected"):
            matrix[row, col] = 1
        if direction in ("reversed", "undirected"):
            matrix[col, row] = 1
    return matrix


def dense_graph_transformer(tower: GraphTower, x: Tensor, adjacent: Tensor, heads: int, norm: bool) -> Tensor:
    """The published formula, written out with a full matrix per head."""
    weights = {name: tensor.double() for name, tensor in tower.state_dict().items()}
    h = x.double() @ weights["W_P.weight"].T + weights["W_P.bias"]
    if tower.config.use_position:
        h = h + weights["W_pos"]
    for layer in range(tower.config.layers):
        q, k, v = (h @ weights[f"gtLayers.{layer}.{which}Trans"] for which in "qkv")
        width = h.shape[1] // heads
        message = torch.zeros_like(h)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            score = (q[:, part] @ k[:, part].T).clamp(-10, 10).exp() * adjacent
            message[:, part] = score / (score.sum(dim=1, keepdim=True) + 1e-8) @ v[:, part]
        h = h + message
        if norm:
            centred = h - h.mean(dim=1, keepdim=True)
            h = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
            h = h * weights[f"gtLayers.{layer}.norm.weight"] + weights[f"gtLayers.{layer}.norm.bias"]
    return h @ weights["inverW_P.weight"].T + weights["inverW_P.bias"]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("fields", [{}, {"norm": False, "use_position": True, "heads": 2, "layers": 2, "dim": 12, "output_dim": 5}])
def test_graph_transformer_is_the_published_formula(direction: str, fields: dict[str, Any]) -> None:
    tower = build("graph_transformer", 6, edge_direction=direction, **fields).double()
    for name, parameter in tower.named_parameters():
        if "norm" in name:
            parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1
    item = random_input(9, 25, 6, seed=1)
    item = GraphInput(x=item.x.double() * 3, edge_index=item.edge_index, num_tokens=9)
    dense = dense_graph_transformer(tower, item.x, adjacency(item, direction), fields.get("heads", 8), fields.get("norm", True))
    torch.testing.assert_close(states(tower, item), dense, atol=1e-10, rtol=1e-10)
    single = states(tower.float(), GraphInput(x=item.x.float(), edge_index=item.edge_index, num_tokens=9))
    torch.testing.assert_close(single.double(), dense, atol=1e-3, rtol=1e-3)


def test_graph_transformer_clamps_scores() -> None:
    """With huge states the scores reach both bounds, and nothing overflows."""
    tower = build("graph_transformer", 6).double()
    item = random_input(9, 30, 6, seed=1)
    item = GraphInput(x=item.x.double() * 1e3, edge_index=item.edge_index, num_tokens=9)
    q, k = ((item.x @ tower.W_P.weight.T) @ getattr(tower.gtLayers[0], which) for which in ("qTrans", "kTrans"))
    assert (q @ k.T).abs().max() > 1e3
    torch.testing.assert_close(states(tower, item), dense_graph_transformer(tower, item.x, adjacency(item, "undirected"), 8, True))


def test_graph_transformer_directions_differ_as_the_released_data_mean_them(graph: TextAttributedGraph) -> None:
    """As released, a neighbour hears the node it was sampled for; the centre hears only over edges back to it."""
    item = random_input(4, 0, 6, seed=2)
    item = GraphInput(x=item.x, edge_index=torch.tensor([[1, 2], [0, 1]]), num_tokens=4)
    alone = GraphInput(x=item.x, edge_index=torch.zeros(2, 0, dtype=torch.long), num_tokens=4)
    for direction, hearing in (("as_released", {1, 2}), ("reversed", {0, 1}), ("undirected", {0, 1, 2})):
        tower = build("graph_transformer", 6, edge_direction=direction, layers=1)
        moved = ~torch.isclose(states(tower, item), states(tower, alone), atol=1e-6).all(dim=1)
        assert set(moved.nonzero().flatten().tolist()) == hearing


def test_graph_transformer_has_the_released_parameters() -> None:
    tower = build("graph_transformer", 128)
    expected = {
        "W_pos": [1, 128],
        "W_P.weight": [128, 128],
        "W_P.bias": [128],
        "inverW_P.weight": [128, 128],
        "inverW_P.bias": [128],
        **{f"gtLayers.{i}.{which}Trans": [128, 128] for i in range(3) for which in "qkv"},
        **{f"gtLayers.{i}.norm.{which}": [128] for i in range(3) for which in ("weight", "bias")},
    }
    assert {name: list(tensor.shape) for name, tensor in tower.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in tower.parameters()) == 181_376
    assert all(layer.norm.eps == 1e-6 for layer in tower.gtLayers)
    assert tower.dropout.p == 0.1


@pytest.mark.parametrize(("dim", "heads"), [(10, 4), (128, 3)])
def test_graph_transformer_heads_must_divide_the_width(dim: int, heads: int) -> None:
    cls = TOWERS.get("graph_transformer")
    problems = cls.problems(parsed(cls.Config, {"name": "graph_transformer", "dim": dim, "heads": heads}))
    assert problems == [f"model.tower.heads: {heads} heads do not divide model.tower.dim={dim}."]


@pytest.mark.parametrize("hops", [0, 1, 2, 4])
def test_sgc_is_smoothing_by_the_normalised_adjacency(hops: int) -> None:
    """Every power by itself scaled to unit root mean square per node."""
    item = random_input(10, 24, 5, seed=4)
    item = GraphInput(x=item.x.double(), edge_index=item.edge_index, num_tokens=10)
    looped = adjacency(item, "undirected") + torch.eye(10, dtype=torch.float64)
    scale = looped.sum(dim=1).rsqrt().diag()
    powers = [item.x]
    for _ in range(hops):
        powers.append(scale @ looped @ scale @ powers[-1])
    unit = [power / power.square().mean(dim=1, keepdim=True).sqrt() for power in powers]
    torch.testing.assert_close(states(build("sgc", 5, hops=hops, keep_all=True), item), torch.cat(unit, dim=1), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(states(build("sgc", 5, hops=hops, keep_all=False), item), unit[-1], atol=1e-12, rtol=1e-12)


def test_sgc_of_a_node_without_features_is_zero() -> None:
    item = GraphInput(x=torch.zeros(2, 5), edge_index=torch.zeros(2, 0, dtype=torch.long), num_tokens=2)
    assert not states(build("sgc", 5), item).any()


def test_identity_passes_features_on() -> None:
    item = random_input(6, 9, 5, seed=4)
    assert torch.equal(states(build("identity", 5), item), item.x)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_orient(direction: str) -> None:
    """Each edge once, whatever was there before."""
    edges = torch.tensor([[1, 2, 0], [0, 0, 2]])
    expected = {
        "as_released": {(1, 0), (2, 0), (0, 2)},
        "reversed": {(0, 1), (0, 2), (2, 0)},
        "undirected": {(1, 0), (0, 1), (2, 0), (0, 2)},
    }[direction]
    found = [tuple(edge) for edge in orient(edges, direction).T.tolist()]  # type: ignore[arg-type]
    assert set(found) == expected and len(found) == len(expected)


@pytest.mark.parametrize("name", GRAPH_TOWERS)
class TestEveryGraphTower:
    """What holds for every tower that reads subgraphs, also one that comes later."""

    @pytest.mark.parametrize("seed", range(5))
    def test_nodes_and_edges_may_come_in_any_order(self, name: str, seed: int) -> None:
        tower = build(name, 6)
        item = random_input(8, 5 * seed, 6, seed)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(8, generator=generator)
        place = order.argsort()
        edges = place[item.edge_index][:, torch.randperm(item.edge_index.shape[1], generator=generator)]
        moved = GraphInput(x=item.x[order], edge_index=edges, num_tokens=8)
        torch.testing.assert_close(states(tower, moved), states(tower, item)[order], atol=1e-5, rtol=1e-4)

    def test_a_batch_equals_one_by_one(self, name: str) -> None:
        tower = build(name, 6)
        items = [random_input(nodes, edges, 6, nodes, tokens) for nodes, edges, tokens in ((5, 9, 5), (1, 0, 1), (7, 20, 3), (4, 0, 4))]
        alone = [states(tower, item) for item in items]
        assert [len(part) for part in alone] == [item.num_tokens for item in items]
        torch.testing.assert_close(states(tower, *items), torch.cat(alone), atol=1e-6, rtol=1e-5)

    def test_the_first_nodes_become_tokens_but_all_are_read(self, name: str) -> None:
        tower = build(name, 6)
        whole = random_input(7, 20, 6, seed=1)
        first = GraphInput(x=whole.x, edge_index=whole.edge_index, num_tokens=2)
        torch.testing.assert_close(states(tower, first), states(tower, whole)[:2])

    def test_isolated_nodes_and_no_edges(self, name: str) -> None:
        tower = build(name, 6)
        for nodes in (1, 3):
            found = states(tower, random_input(nodes, 0, 6, seed=nodes))
            assert found.shape == (nodes, tower.output_dim) and found.isfinite().all()
        item = random_input(5, 0, 6, seed=9)
        pair = GraphInput(x=item.x, edge_index=torch.tensor([[1], [0]]), num_tokens=5)
        torch.testing.assert_close(states(tower, pair)[2:], states(tower, item)[2:], atol=1e-6, rtol=1e-5)

    def test_eval_is_deterministic(self, name: str) -> None:
        tower = build(name, 6)
        item = random_input(8, 20, 6, seed=1)
        assert torch.equal(states(tower, item), states(tower, item))

    @pytest.mark.parametrize("input_dim", [1, 6, 130])
    def test_output_dim_is_true(self, name: str, input_dim: int) -> None:
        tower = build(name, input_dim)
        assert tower.input_dim == input_dim
        assert states(tower, random_input(4, 6, input_dim, seed=0)).shape == (4, tower.output_dim)

    def test_reads_sampled_subgraphs(self, name: str, graph: TextAttributedGraph) -> None:
        tower = build(name, graph.features.shape[1])
        subgraph = sample_subgraph(graph, 0, hops=2, fanout=3, seed=1, max_tokens=4)
        found = states(tower, subgraph.input(graph))
        assert found.shape == (4, tower.output_dim) and found.isfinite().all()

    def test_collated_inputs_move_to_a_device(self, name: str) -> None:
        batch = build(name, 6).collate([random_input(4, 6, 6, seed=0)])
        assert batch.to("meta").x.device.type == "meta"


@pytest.mark.parametrize("name", PROJECTORS.names())
@pytest.mark.parametrize(("states_shape", "output_dim"), [((3, 6), 10), ((1, 1), 4), ((0, 6), 10)])
def test_projector_shapes(name: str, states_shape: tuple[int, int], output_dim: int) -> None:
    projector = PROJECTORS.build(parsed(PROJECTORS.get(name).Config, {"name": name}), states_shape[1], output_dim, 0.02)
    tokens = projector(torch.randn(states_shape))
    assert tokens.shape == (states_shape[0], output_dim) and tokens.isfinite().all()
    assert all(parameter.requires_grad for parameter in projector.parameters())


def test_linear_projector_is_a_linear_layer() -> None:
    projector = PROJECTORS.build(parsed(PROJECTORS.get("linear").Config, {"name": "linear"}), 6, 10, 0.02)
    x = torch.randn(3, 6)
    torch.testing.assert_close(projector(x), x @ projector.linear.weight.T + projector.linear.bias)
    assert projector.linear.weight.shape == (10, 6)


def test_mlp_projector_takes_a_width() -> None:
    cls = PROJECTORS.get("mlp")
    assert cls(cls.Config(name="mlp"), 6, 10, 0.02).layers[0].weight.shape == (10, 6)
    assert cls(cls.Config(name="mlp", hidden_dim=7), 6, 10, 0.02).layers[2].weight.shape == (10, 7)


@pytest.mark.parametrize("name", PROJECTORS.names())
def test_projector_dropout_is_on_states_and_in_training_only(name: str) -> None:
    projector = PROJECTORS.build(parsed(PROJECTORS.get(name).Config, {"name": name, "dropout": 0.5}), 64, 10, 0.02)
    x = torch.randn(3, 64)
    assert not torch.equal(projector.train()(x), projector(x))
    assert torch.equal(projector.eval()(x), projector(x))
    torch.manual_seed(1)
    dropped = projector.train()(x)
    torch.manual_seed(1)
    kept = torch.nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(dropped, projector.eval()(kept))
