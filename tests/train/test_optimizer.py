"""Muon against torch's own and against its definition; which parameter goes where."""

from __future__ import annotations

import copy

import pytest
import torch

from frontload.train.config import OptimizerConfig
from frontload.train.optimizer import Muon, Optimizer, orthogonalize
from tests.train.small_stage import small_model

SHAPES = [(8, 8), (8, 8), (24, 8), (8, 24), (24, 8), (16, 8)]


def _matrices(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def _give_gradients(params, seed):
    for p, other in zip(params, _matrices(seed), strict=True):
        p.grad = other.detach().clone()


def test_muon_moves_as_torch_muon_does():
    ours, theirs = _matrices(), _matrices()
    settings = {"weight_decay": 0.1, "momentum": 0.95}
    muon = Muon(ours, **settings)
    peer = torch.optim.Muon(theirs, lr=0.02, adjust_lr_fn="original", **settings)
    muon.param_groups[0]["lr"] = 0.02
    for step in range(5):
        _give_gradients(ours, step + 1)
        _give_gradients(theirs, step + 1)
        muon.step()
        peer.step()
    for start, a, b in zip(_matrices(), ours, theirs, strict=True):
        # Both round to bfloat16 (2**-9) some twenty times on the way.
        assert (a - b).norm() < 0.01 * (b - start).norm()
        buffers = muon.state[a]["momentum_buffer"], peer.state[b]["momentum_buffer"]
        torch.testing.assert_close(*buffers)


def test_orthogonalizing_together_equals_one_by_one():
    for shape in set(SHAPES):
        stack = torch.randn(3, *shape, dtype=torch.float64)
        alone = torch.cat([orthogonalize(matrix[None]) for matrix in stack])
        torch.testing.assert_close(orthogonalize(stack), alone)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalized_singular_values_are_near_one(shape):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(4, *shape, dtype=torch.float64)))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_parameter_without_gradient_stays():
    params = _matrices()
    muon = Muon(params, weight_decay=0.1, momentum=0.9)
    before = params[0].detach().clone()
    _give_gradients(params, 1)
    params[0].grad = None
    muon.step()
    assert torch.equal(params[0], before)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    optimizer = Optimizer(small_model(), OptimizerConfig(learning_rate=0.01))
    (muon, _), (adamw, _) = optimizer.parts
    names = [
        [optimizer.names[p] for group in part.param_groups for p in group["params"]]
        for part in (muon, adamw)
    ]
    assert all("proj" in name for name in names[0])
    assert all("norm" in name or "embed" in name for name in names[1])
    assert sum(map(len, names)) == len(optimizer.names)


def test_learning_rates_keep_their_ratio():
    config = OptimizerConfig(learning_rate=0.01, adamw_learning_rate_ratio=0.25)
    optimizer = Optimizer(small_model(), config)
    optimizer.step(0.008)
    rates = [group["lr"] for part, _ in optimizer.parts for group in part.param_groups]
    assert rates == [0.008, 0.002, 0.002]


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_restored_state_goes_on_as_the_original(name):
    config = OptimizerConfig(name=name, learning_rate=0.01)
    model = small_model()
    optimizer = Optimizer(model, config)
    _step(model, optimizer, 1)
    other = copy.deepcopy(model)
    restored = Optimizer(other, config)
    restored.load_state({key: value.clone() for key, value in optimizer.state().items()})
    for seed in (2, 3):
        _step(model, optimizer, seed)
        _step(other, restored, seed)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_of_another_optimizer_is_refused():
    model = small_model()
    muon = Optimizer(model, OptimizerConfig(name="muon", learning_rate=0.01))
    _step(model, muon, 1)
    adamw = Optimizer(model, OptimizerConfig(name="adamw", learning_rate=0.01))
    with pytest.raises(ValueError, match=r"optimizer\.carry"):
        adamw.load_state(muon.state())


def _step(model, optimizer, seed):
    torch.manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step(0.01)
