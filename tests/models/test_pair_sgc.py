"""Towers that compare the two subgraphs of a question."""

from dataclasses import replace

import torch
from helpers import parsed
from torch import Tensor
from torch.nn.functional import cosine_similarity

from graphgpt.graphs.subgraph import GraphInput
from graphgpt.models.towers.pair_sgc import PairReader, PairSGC
from graphgpt.models.towers.sgc import SGC
from graphgpt.tasks.link_prediction import partners

EDGES = torch.tensor([[1, 2, 3], [0, 0, 1]])


def tower() -> PairSGC:
    return PairSGC(parsed(PairSGC.Config, {"name": "pair_sgc"}), 5)


def graph(seed: int, nodes: int = 4, tokens: int = 2) -> GraphInput:
    x = torch.randn(nodes, 5, generator=torch.Generator().manual_seed(seed))
    return GraphInput(x=x, edge_index=EDGES[:, : nodes - 1], num_tokens=tokens)


def encoded(*inputs: GraphInput) -> Tensor:
    return tower()(PairReader().collate(inputs))


def test_states_products_and_cosines() -> None:
    first, second = partners(graph(0), graph(1))
    found = encoded(first, second)
    assert found.shape == (4, 2 * 15 + 3)
    sgc = SGC(parsed(SGC.Config, {"name": "sgc"}), 5)
    ours, theirs = (sgc.encode(item.x, item.edge_index).view(-1, 3, 5) for item in (first, second))
    torch.testing.assert_close(found[:2, :15], ours[:2].flatten(1))
    torch.testing.assert_close(found[:2, 15:30], (ours[:2] * theirs[0]).flatten(1))
    torch.testing.assert_close(found[:2, 30:], cosine_similarity(ours[:2], theirs[:1], dim=2) * 5**0.5)
    torch.testing.assert_close(found[2:, 30:], cosine_similarity(theirs[:2], ours[:1], dim=2) * 5**0.5)


def test_without_a_partner_nothing_is_common() -> None:
    assert (encoded(graph(0))[:, 15:] == 0).all()


def test_a_batch_is_each_alone_whatever_stands_beside_it() -> None:
    first, second = partners(graph(0, nodes=3, tokens=3), graph(1, tokens=1))
    alone = graph(2, nodes=2)
    together = encoded(first, alone, second)
    torch.testing.assert_close(together, torch.cat([encoded(first), encoded(alone), encoded(second)]))


def test_another_partner_moves_the_tokens() -> None:
    first, second = partners(graph(0), graph(1))
    other = replace(first, partner=graph(3))
    assert not torch.allclose(encoded(first), encoded(other))
    assert second.partner is not None and second.partner.partner is None
