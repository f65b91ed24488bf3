"""A checkpoint on a graph whose features have another width."""

import pytest

from graphgpt.checkpoints.folder import width_problem


@pytest.mark.parametrize(
    ("trained", "sentence"),
    [
        ({"features": 3}, None),
        ({}, None),
        ({"features": 16}, "The graph 'g' has 3 features per node (from x.npy), and runs/a was trained on 16: make them the same way."),
        (
            {"features": 16, "features_from": "the text encoder 'tfidf_svd'"},
            "The graph 'g' has 3 features per node (from x.npy), and runs/a was trained on 16 (from the text encoder 'tfidf_svd'): "
            "make them the same way.",
        ),
    ],
)
def test_both_widths_and_where_both_come_from_are_said(trained: dict[str, object], sentence: str | None) -> None:
    assert width_problem("runs/a", trained, {"name": "g", "features": 3, "features_from": "x.npy"}) == sentence
