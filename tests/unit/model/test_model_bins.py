"""Bins agree with `numpy.searchsorted` on every number, also those right beside an edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shipway.model.bins import Bins

DRAW = np.random.default_rng(0)
SHAPES = {
    "normal": DRAW.normal(size=20_000),
    "heavy tails": DRAW.standard_cauchy(size=20_000) * 1e5,
    "crowded": DRAW.exponential(size=20_000) ** 3,
    "whole": DRAW.integers(0, 100, 20_000).astype(np.float64),
    "close together": 1e9 + DRAW.normal(size=20_000) * 1e-7,
    "huge": DRAW.normal(size=20_000) * 1e300,
    "two": DRAW.integers(0, 2, 20_000).astype(np.float64),
    "constant": np.full(20_000, 3.0),
}


def beside(edges: np.ndarray) -> np.ndarray:
    """Returns the edges, their neighbours, and numbers beyond all of them, often enough for the table to be used."""
    near = np.concatenate([edges, np.nextafter(edges, np.inf), np.nextafter(edges, -np.inf)])
    return np.concatenate([np.resize(near, 5000), [-1.7e308, 0.0, 1.7e308]])


@pytest.mark.parametrize("shape", SHAPES)
def test_bins_of_real_shapes(shape: str) -> None:
    values = SHAPES[shape]
    edges = np.unique(np.quantile(values, np.arange(1, 200) / 200))
    numbers = np.concatenate([values, beside(edges)])
    assert np.array_equal(Bins(edges)(numbers), np.searchsorted(edges, numbers, side="right"))


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e308, 1e308), unique=True),
    arrays(np.float64, st.integers(0, 30), elements=st.floats(-1e308, 1e308)),
)
def test_bins_of_any_edges(edges: np.ndarray, values: np.ndarray) -> None:
    edges = np.unique(edges)
    numbers = np.concatenate([values, np.resize(beside(edges), 5000)])
    assert np.array_equal(Bins(edges)(numbers), np.searchsorted(edges, numbers, side="right"))
