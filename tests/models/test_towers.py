"""Towers and projectors: exact against dense recomputations, and what every graph tower must respect."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import parsed
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.subgraph import GraphInput, sample_subgraph
from graphgpt.models.layered_tower import LayeredTower, MessagePassingTower
from graphgpt.models.position import PositionConfig, laplacian, positional_features
from graphgpt.models.tower import GraphReader, GraphTower, describe_tower, orient
from graphgpt.registry import PROJECTORS, TOWERS

DIRECTIONS = ("as_released", "reversed", "undirected")
RANDOM_WALK, LAPLACIAN = ({"position": {"name": name, "dim": 4}} for name in ("random_walk", "laplacian"))

# Every tower as it comes, then in other ways that could break what holds for all.
GRAPH_TOWERS: list[tuple[str, dict[str, Any]]] = [
    ("gat", {}),
    ("gcn", {}),
    ("gin", {}),
    ("gps", {}),
    ("graph_transformer", {}),
    ("identity", {}),
    ("mlp", {}),
    ("mpnn", {}),
    ("pair_sgc", {}),
    ("sage", {}),
    ("sgc", {}),
    ("gat", {"version": 2, "heads": 2, "edge_direction": "as_released", "residual": False, "norm": False}),
    ("gcn", {"select_layer": 1, "dim": 24, **RANDOM_WALK}),
    ("gps", {"edge_direction": "reversed", **LAPLACIAN}),
    ("graph_transformer", {"select_layer": -2, "dim": 24, **LAPLACIAN}),
    ("mlp", {"layers": 0, **RANDOM_WALK}),
    ("sage", {"select_layer": 0, "activation": "gelu"}),
]
WITH_LAYERS = [name for name in TOWERS.names() if issubclass(TOWERS.get(name), LayeredTower)]


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
        return tower(tower.reader().collate(inputs))


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


def looped(adjacent: Tensor) -> Tensor:
    return adjacent + torch.eye(len(adjacent), dtype=adjacent.dtype)


def gcn_layer(h: Tensor, adjacent: Tensor, w: dict[str, Tensor]) -> Tensor:
    scale = looped(adjacent).sum(dim=1).rsqrt().diag()
    return scale @ looped(adjacent) @ scale @ h @ w["lin.weight"].T + w["bias"]


def sage_layer(h: Tensor, adjacent: Tensor, w: dict[str, Tensor]) -> Tensor:
    mean = adjacent @ h / adjacent.sum(dim=1, keepdim=True).clamp(min=1)
    return mean @ w["lin_l.weight"].T + w["lin_l.bias"] + h @ w["lin_r.weight"].T


def gin_layer(h: Tensor, adjacent: Tensor, w: dict[str, Tensor]) -> Tensor:
    hidden = (looped(adjacent) @ h @ w["nn.0.weight"].T + w["nn.0.bias"]).relu()
    return hidden @ w["nn.2.weight"].T + w["nn.2.bias"]


def mlp_layer(h: Tensor, adjacent: Tensor, w: dict[str, Tensor]) -> Tensor:
    return h @ w["weight"].T + w["bias"]


def gat_layer(h: Tensor, adjacent: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Either version, a full matrix of scores per head."""
    first = "att" not in w
    sent = h @ w["lin.weight"].T if first else h @ w["lin_l.weight"].T + w["lin_l.bias"]
    heard = sent if first else h @ w["lin_r.weight"].T + w["lin_r.bias"]
    heads = (w["att_src"] if first else w["att"]).shape[1]
    parts = []
    for head, (ours, theirs) in enumerate(zip(heard.chunk(heads, dim=1), sent.chunk(heads, dim=1), strict=True)):
        if first:
            score = functional.leaky_relu((ours @ w["att_dst"][0, head])[:, None] + (theirs @ w["att_src"][0, head])[None], 0.2)
        else:
            score = functional.leaky_relu(ours[:, None] + theirs[None], 0.2) @ w["att"][0, head]
        parts.append(score.masked_fill(looped(adjacent) == 0, -torch.inf).softmax(dim=1) @ theirs)
    return torch.cat(parts, dim=1) + w["bias"]


DENSE: list[tuple[str, dict[str, Any], Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor], Callable[[Tensor], Tensor]]] = [
    ("gcn", {}, gcn_layer, torch.relu),
    ("sage", {}, sage_layer, torch.relu),
    ("gin", {}, gin_layer, torch.relu),
    ("mlp", {}, mlp_layer, torch.relu),
    ("gat", {}, gat_layer, functional.elu),
    ("gat", {"version": 2, "heads": 4}, gat_layer, functional.elu),
]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("around", [{}, {"norm": False, "residual": False, "layers": 3}])
@pytest.mark.parametrize(("name", "fields", "layer", "activation"), DENSE)
def test_message_passing_towers_are_the_published_formulas(
    name: str,
    fields: dict[str, Any],
    layer: Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor],
    activation: Callable[[Tensor], Tensor],
    around: dict[str, Any],
    direction: str,
) -> None:
    """Written out with full matrices; as released, row 0 of the edges hears row 1."""
    tower = build(name, 6, dim=16, output_dim=5, edge_direction=direction, **fields, **around).double()
    for number, parameter in enumerate(tower.parameters()):
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.1
    item = random_input(9, 25, 6, seed=1)
    item = GraphInput(x=item.x.double(), edge_index=item.edge_index, num_tokens=9)
    w = tower.state_dict()
    h = item.x @ w["first.weight"].T + w["first.bias"]
    for number in range(tower.config.layers):
        at = f"layers.{number}."
        own = {key.removeprefix(f"{at}convolution."): tensor for key, tensor in w.items() if key.startswith(f"{at}convolution.")}
        change = layer(h, adjacency(item, direction), own)
        if tower.config.norm:
            centred = change - change.mean(dim=1, keepdim=True)
            change = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * w[f"{at}norm.weight"] + w[f"{at}norm.bias"]
        h = activation(change) + (h if tower.config.residual else 0)
    expected = h @ w["last.weight"].T + w["last.bias"]
    torch.testing.assert_close(states(tower, item), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_mpnn_is_normalised_smoothing(direction: str) -> None:
    tower = build("mpnn", 5, layers=2, edge_direction=direction)
    item = random_input(9, 25, 5, seed=1)
    item = GraphInput(x=item.x.double(), edge_index=item.edge_index, num_tokens=9)
    matrix = looped(adjacency(item, direction))
    scale = matrix.sum(dim=1).rsqrt().diag()
    h = item.x
    for _ in range(2):
        h = scale @ matrix @ scale @ h
        h = ((h - h.mean(dim=1, keepdim=True)) / (h.var(dim=1, keepdim=True, unbiased=False) + 1e-5).sqrt()).relu()
    torch.testing.assert_close(states(tower, item), h, atol=1e-12, rtol=1e-12)
    assert not list(tower.parameters())


def test_gps_attends_to_the_whole_subgraph_and_to_no_other() -> None:
    tower = build("gps", 6, layers=1)
    item, other = random_input(4, 0, 6, seed=1), random_input(7, 9, 6, seed=2)
    changed = GraphInput(x=torch.cat([item.x[:3], -item.x[3:]]), edge_index=item.edge_index, num_tokens=4)
    assert not torch.isclose(states(tower, changed), states(tower, item), atol=1e-6).all(dim=1).any()
    torch.testing.assert_close(states(tower, other, item)[7:], states(tower, other, changed, item)[11:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_LAYERS)
class TestEveryLayeredTower:
    """Layers, and which of them becomes tokens."""

    def test_select_layer(self, name: str) -> None:
        """What layer k gives is what it hands on to the next one; the last states pass through the projection out."""
        item = random_input(7, 16, 6, seed=1)
        whole = build(name, 6, layers=3, dim=16, output_dim=5)
        layers = whole.layers if isinstance(whole, MessagePassingTower) else whole.gtLayers
        handed: list[Tensor] = []
        for layer in layers:
            layer.register_forward_pre_hook(lambda module, inputs: handed.append(inputs[0]))
        last = states(whole, item)
        assert last.shape == (7, 5)
        for number, expected in enumerate(handed):
            for same in (number, number - 4):
                tower = build(name, 6, layers=3, dim=16, output_dim=5, select_layer=same)
                assert tower.output_dim == 16
                torch.testing.assert_close(states(tower, item), expected)
        torch.testing.assert_close(states(build(name, 6, layers=3, dim=16, output_dim=5, select_layer=3), item), last)

    def test_weights_fit_whichever_layer_is_selected(self, name: str) -> None:
        """A tower is trained to its last layer before an inner one becomes tokens."""
        whole, inner = build(name, 6), build(name, 6, select_layer=-2)
        inner.load_state_dict(whole.state_dict())
        assert describe_tower(whole.config, 6) == describe_tower(inner.config, 6)

    def test_a_layer_that_is_not_there(self, name: str) -> None:
        cls = TOWERS.get(name)
        for layer, known in ((-4, True), (3, True), (-5, False), (4, False)):
            sentence = f"model.tower.select_layer: there is no layer {layer}; model.tower.layers=3 takes -4 to 3."
            problems = cls.problems(parsed(cls.Config, {"name": name, "layers": 3, "select_layer": layer}))
            assert problems == ([] if known else [sentence])

    def test_unused_layers_get_zero_gradients(self, name: str) -> None:
        """Zero and not None, as the processes of a distributed run want it."""
        tower = build(name, 6, select_layer=0).train()
        tower(tower.reader().collate([random_input(4, 6, 6, seed=1)])).sum().backward()
        gradients = {parameter: parameter.grad for parameter in tower.parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        moved = sum(bool(gradient.any()) for gradient in gradients.values() if gradient is not None)
        assert moved == 2  # The first projection's weight and bias.

    @pytest.mark.parametrize("position", ["laplacian", "random_walk"])
    def test_position_stands_behind_the_features(self, name: str, position: str) -> None:
        item = random_input(7, 16, 6, seed=1)
        tower = build(name, 6, select_layer=0, position={"name": position, "dim": 3})
        config = PositionConfig(name=position, dim=3)  # type: ignore[arg-type]
        features = positional_features(config, item.edge_index, torch.zeros(7, dtype=torch.int64), training=False)
        first = tower.first if isinstance(tower, MessagePassingTower) else tower.W_P
        expected = torch.cat([item.x, features], dim=1) @ first.weight.T + first.bias
        torch.testing.assert_close(states(tower, item), expected)


@pytest.mark.parametrize("name", ["gat", "gps", "graph_transformer"])
def test_heads_must_divide_the_width(name: str) -> None:
    cls = TOWERS.get(name)
    problems = cls.problems(parsed(cls.Config, {"name": name, "dim": 10, "heads": 4}))
    assert problems == ["model.tower.heads: 4 heads do not divide model.tower.dim=10."]


def position_of(name: str, *items: GraphInput, dim: int = 4, training: bool = False) -> Tensor:
    batch = GraphReader().collate(items)
    return positional_features(PositionConfig(name=name, dim=dim), batch.edge_index, batch.batch, training=training)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["laplacian", "random_walk"])
@pytest.mark.parametrize("seed", range(5))
def test_positions_are_those_of_pyg(name: str, seed: int) -> None:
    """PyG's transforms leave signs to chance, and want a connected graph with enough nodes."""
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddLaplacianEigenvectorPE, AddRandomWalkPE

    item = random_input(12, 40, 1, seed)
    data = Data(edge_index=orient(item.edge_index, "undirected"), num_nodes=12)
    transform = AddRandomWalkPE(7, "pe") if name == "random_walk" else AddLaplacianEigenvectorPE(7, "pe", is_undirected=True)
    found, expected = position_of(name, item, dim=7), transform(data).pe.float()
    torch.testing.assert_close(found.abs(), expected.abs(), atol=1e-5, rtol=1e-4)


def test_random_walks_by_hand() -> None:
    """From the middle of a path of three a walk is back after every second step, from an end then with probability one half."""
    path = GraphInput(x=torch.zeros(3, 1), edge_index=torch.tensor([[1, 2], [0, 0]]), num_tokens=3)
    middle, end = [0.0, 1.0, 0.0, 1.0, 0.0], [0.0, 0.5, 0.0, 0.5, 0.0]
    torch.testing.assert_close(position_of("random_walk", path, dim=5), torch.tensor([middle, end, end]))


def test_eigenvectors_solve_the_equation() -> None:
    """Of the normalised Laplacian, orthonormal, the smallest positive eigenvalues first; also of a graph in two parts."""
    item = random_input(9, 20, 1, seed=3)
    adjacent = torch.block_diag(adjacency(item, "undirected"), adjacency(random_input(5, 9, 1, seed=4), "undirected"))
    vectors = laplacian(adjacent[None], [14], 20)[0]
    scale = adjacent.sum(dim=1).rsqrt()
    matrix = torch.eye(14, dtype=torch.float64) - scale[:, None] * adjacent * scale
    torch.testing.assert_close(vectors[:, 12:], torch.zeros(14, 8, dtype=torch.float64))
    vectors = vectors[:, :12]
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(12, dtype=torch.float64))
    values = (vectors * (matrix @ vectors)).sum(dim=0)
    torch.testing.assert_close(matrix @ vectors, vectors * values)
    assert (values > 0.01).all() and (values.diff() > -1e-9).all()


def test_positions_of_small_graphs_end_in_zeros() -> None:
    alone, pair = random_input(1, 0, 1, seed=0), GraphInput(torch.zeros(2, 1), torch.tensor([[1], [0]]), num_tokens=2)
    for name in ("laplacian", "random_walk"):
        assert not position_of(name, alone).any()
        assert not position_of(name, random_input(3, 0, 1, seed=0)).any()
    root = 0.5**0.5
    torch.testing.assert_close(position_of("laplacian", pair), torch.tensor([[root, 0, 0, 0], [-root, 0, 0, 0]]))


def test_positions_of_a_batch_are_each_graphs_own() -> None:
    """Bit by bit, also where eigenvalues are repeated, as of a star."""
    star = GraphInput(torch.zeros(6, 1), torch.tensor([[1, 2, 3, 4, 5], [0, 0, 0, 0, 0]]), num_tokens=1)
    items = [star, random_input(9, 20, 1, seed=1), random_input(1, 0, 1, seed=2), star]
    assert torch.equal(position_of("laplacian", *items), torch.cat([position_of("laplacian", item) for item in items]))
    together, alone = position_of("random_walk", *items), torch.cat([position_of("random_walk", item) for item in items])
    torch.testing.assert_close(together, alone)


def test_signs_of_eigenvectors_are_random_in_training_only() -> None:
    items = [random_input(9, 20, 1, seed) for seed in range(8)]
    fixed = position_of("laplacian", *items)
    assert torch.equal(fixed, position_of("laplacian", *items))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = position_of("laplacian", *items, training=True)
    assert torch.equal(found.abs(), fixed.abs())
    turned = (found != fixed).view(8, 9, 4)
    assert torch.equal(turned.any(dim=1), (turned | (fixed.view(8, 9, 4) == 0)).all(dim=1))
    assert 8 < turned.any(dim=1).sum() < 24 and len(set(map(str, turned.any(dim=1).tolist()))) > 1


@settings(deadline=None)
@given(nodes=st.integers(3, 9), seed=st.integers(0, 10**6))
def test_eigenvectors_follow_the_nodes(nodes: int, seed: int) -> None:
    """Nodes may come in any order where each eigenvalue is there once, as with random weights on all edges that there can be."""
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.rand(nodes, nodes, generator=generator, dtype=torch.float64) + 1).triu(1)
    adjacent = weights + weights.T
    found = laplacian(adjacent[None], [nodes], nodes - 1)[0]
    first, second = found.abs().topk(2, dim=0).values
    assume(bool((first - second > 1e-4).all()))  # The sign follows the largest entry.
    order = torch.randperm(nodes, generator=generator)
    moved = laplacian(adjacent[order][:, order][None], [nodes], nodes - 1)[0]
    torch.testing.assert_close(moved, found[order], atol=1e-6, rtol=1e-6)


def test_every_tower_is_held_to_the_same() -> None:
    assert {name for name, _ in GRAPH_TOWERS} == {name for name in TOWERS.names() if issubclass(TOWERS.get(name), GraphTower)}


@pytest.mark.parametrize(("name", "fields"), GRAPH_TOWERS, ids=lambda value: value if isinstance(value, str) else ",".join(value))
class TestEveryGraphTower:
    """What holds for every tower that reads subgraphs, also one that comes later."""

    @settings(max_examples=15, deadline=None)
    @given(nodes=st.integers(1, 9), edges=st.integers(0, 40), seed=st.integers(0, 10**6))
    def test_nodes_and_edges_may_come_in_any_order(self, name: str, fields: dict[str, Any], nodes: int, edges: int, seed: int) -> None:
        if fields.get("position") == LAPLACIAN["position"]:  # Not where an eigenvalue is repeated: test_eigenvectors_follow_the_nodes.
            fields = {**fields, **RANDOM_WALK}
        tower = build(name, 6, **fields)
        item = random_input(nodes, edges, 6, seed)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(nodes, generator=generator)
        place = order.argsort()
        moved_edges = place[item.edge_index][:, torch.randperm(item.edge_index.shape[1], generator=generator)]
        moved = GraphInput(x=item.x[order], edge_index=moved_edges, num_tokens=nodes)
        torch.testing.assert_close(states(tower, moved), states(tower, item)[order], atol=1e-5, rtol=1e-4)

    def test_a_batch_equals_one_by_one(self, name: str, fields: dict[str, Any]) -> None:
        tower = build(name, 6, **fields)
        items = [random_input(nodes, edges, 6, nodes, tokens) for nodes, edges, tokens in ((5, 9, 5), (1, 0, 1), (7, 20, 3), (4, 0, 4))]
        alone = [states(tower, item) for item in items]
        assert [len(part) for part in alone] == [item.num_tokens for item in items]
        torch.testing.assert_close(states(tower, *items), torch.cat(alone), atol=1e-6, rtol=1e-5)

    def test_the_first_nodes_become_tokens_but_all_are_read(self, name: str, fields: dict[str, Any]) -> None:
        tower = build(name, 6, **fields)
        whole = random_input(7, 20, 6, seed=1)
        first = GraphInput(x=whole.x, edge_index=whole.edge_index, num_tokens=2)
        torch.testing.assert_close(states(tower, first), states(tower, whole)[:2])

    def test_isolated_nodes_and_no_edges(self, name: str, fields: dict[str, Any]) -> None:
        tower = build(name, 6, **fields)
        for nodes in (1, 3):
            found = states(tower, random_input(nodes, 0, 6, seed=nodes))
            assert found.shape == (nodes, tower.output_dim) and found.isfinite().all()
        item = random_input(5, 0, 6, seed=9)
        pair = GraphInput(x=item.x, edge_index=torch.tensor([[1], [0]]), num_tokens=5)
        if name != "gps":  # Attends to nodes without an edge to them.
            torch.testing.assert_close(states(tower, pair)[2:], states(tower, item)[2:], atol=1e-6, rtol=1e-5)

    def test_eval_is_deterministic(self, name: str, fields: dict[str, Any]) -> None:
        tower = build(name, 6, **fields)
        item = random_input(8, 20, 6, seed=1)
        assert torch.equal(states(tower, item), states(tower, item))

    @pytest.mark.parametrize("edges", [0, 20])
    def test_every_parameter_learns(self, name: str, fields: dict[str, Any], edges: int) -> None:
        """None is left out of the graph, for which a distributed run would wait; and none stays where it is, if it is read at all."""
        tower = build(name, 6, **fields).train()
        found = tower(tower.reader().collate([random_input(8, edges, 6, seed=1), random_input(5, edges, 6, seed=2)]))
        if not list(tower.parameters()):
            assert not found.requires_grad
            return
        (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
        gradients = {key: parameter.grad for key, parameter in tower.named_parameters()}
        assert [key for key, gradient in gradients.items() if gradient is None] == []
        if edges and "select_layer" not in fields:
            still = [key for key, gradient in gradients.items() if gradient is not None and not gradient.any()]
            assert still == (["W_pos"] if name == "graph_transformer" else [])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_runs_in_the_dtype_of_its_weights(self, name: str, fields: dict[str, Any], dtype: torch.dtype) -> None:
        tower = build(name, 6, **fields).to(dtype)
        found = states(tower, random_input(8, 20, 6, seed=1))
        assert found.isfinite().all() and found.dtype == (dtype if list(tower.parameters()) else torch.float32)

    @pytest.mark.parametrize("input_dim", [1, 6, 130])
    def test_output_dim_is_true(self, name: str, fields: dict[str, Any], input_dim: int) -> None:
        tower = build(name, input_dim, **fields)
        assert tower.input_dim == input_dim
        assert states(tower, random_input(4, 6, input_dim, seed=0)).shape == (4, tower.output_dim)

    def test_reads_sampled_subgraphs(self, name: str, fields: dict[str, Any], graph: TextAttributedGraph) -> None:
        tower = build(name, graph.features.shape[1], **fields)
        subgraph = sample_subgraph(graph, 0, hops=2, fanout=3, seed=1, max_tokens=4)
        found = states(tower, subgraph.input(graph))
        assert found.shape == (4, tower.output_dim) and found.isfinite().all()

    def test_collated_inputs_move_to_a_device(self, name: str, fields: dict[str, Any]) -> None:
        batch = build(name, 6, **fields).reader().collate([random_input(4, 6, 6, seed=0)])
        assert batch.to("meta").x.device.type == "meta"


@pytest.mark.parametrize("name", PROJECTORS.names())
@pytest.mark.parametrize(("states_shape", "output_dim"), [((3, 6), 10), ((1, 1), 4), ((0, 6), 10)])
def test_projector_shapes(name: str, states_shape: tuple[int, int], output_dim: int) -> None:
    projector = PROJECTORS.build(parsed(PROJECTORS.get(name).Config, {"name": name}), states_shape[1], output_dim, 0.02)
    tokens = projector(torch.randn(states_shape), (states_shape[0],))
    assert tokens.shape == (states_shape[0], output_dim) and tokens.isfinite().all()
    assert all(parameter.requires_grad for parameter in projector.parameters())


def test_linear_projector_is_a_linear_layer() -> None:
    projector = PROJECTORS.build(parsed(PROJECTORS.get("linear").Config, {"name": "linear"}), 6, 10, 0.02)
    x = torch.randn(3, 6)
    torch.testing.assert_close(projector(x, (len(x),)), x @ projector.linear.weight.T + projector.linear.bias)
    assert projector.linear.weight.shape == (10, 6)


def test_mlp_projector_takes_a_width() -> None:
    cls = PROJECTORS.get("mlp")
    assert cls(cls.Config(name="mlp"), 6, 10, 0.02).layers[0].weight.shape == (10, 6)
    assert cls(cls.Config(name="mlp", hidden_dim=7), 6, 10, 0.02).layers[2].weight.shape == (10, 7)


@pytest.mark.parametrize("name", PROJECTORS.names())
def test_projector_dropout_is_on_states_and_in_training_only(name: str) -> None:
    projector = PROJECTORS.build(parsed(PROJECTORS.get(name).Config, {"name": name, "dropout": 0.5}), 64, 10, 0.02)
    x = torch.randn(3, 64)
    assert not torch.equal(projector.train()(x, (len(x),)), projector(x, (len(x),)))
    assert torch.equal(projector.eval()(x, (len(x),)), projector(x, (len(x),)))
    torch.manual_seed(1)
    dropped = projector.train()(x, (len(x),))
    torch.manual_seed(1)
    kept = torch.nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(dropped, projector.eval()(kept, (len(x),)))
