from __future__ import annotations

import math

import pytest
import torch

from archlab.objectives.regularizers import sigreg


def normal(count: int, width: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


def statistic(embeddings: torch.Tensor) -> float:
    torch.manual_seed(0)
    return sigreg(embeddings).item()


@pytest.mark.parametrize("count", [100, 1000])
def test_normal_samples_give_its_expectation_whatever_their_number(count: int) -> None:
    """Of n samples |phi_n - phi|^2 has the mean (1 - phi^2) / n; weighted by phi and integrated over -3 to 3."""
    knots = torch.linspace(0, 3, 3001, dtype=torch.float64)
    phi = torch.exp(-knots.square() / 2)
    expected = 2 * torch.trapezoid((1 - phi.square()) * phi, knots).item()
    assert expected == pytest.approx(1.05, abs=0.01)
    generator = torch.Generator().manual_seed(0)
    draws = [statistic(torch.randn(count, 8, generator=generator)) for _ in range(60)]
    assert sum(draws) / len(draws) == pytest.approx(expected, rel=0.1)


def test_a_point_gives_the_integral_of_its_distance() -> None:
    """All samples at the origin: the characteristic function is one everywhere."""
    knots = torch.linspace(0, 3, 3001, dtype=torch.float64)
    phi = torch.exp(-knots.square() / 2)
    expected = 2 * 50 * torch.trapezoid((1 - phi).square() * phi, knots).item()
    assert statistic(torch.zeros(50, 4)) == pytest.approx(expected, rel=1e-2)


def test_off_centre_the_imaginary_part_counts() -> None:
    """All samples at one: phi_n(t) = exp(it) along the only direction there is, up to its sign."""
    knots = torch.linspace(0, 3, 3001, dtype=torch.float64)
    phi = torch.exp(-knots.square() / 2)
    distance = (knots.cos() - phi).square() + knots.sin().square()
    expected = 2 * 50 * torch.trapezoid(distance * phi, knots).item()
    assert statistic(torch.ones(50, 1)) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x * 0.3,
        lambda x: x * 3,
        lambda x: x + 1,
        lambda x: x * (torch.arange(8) < 2),  # six dimensions collapsed
        lambda x: x[:, :1].expand(-1, 8),  # all on one line
        lambda x: x.sign() * math.sqrt(2) * (torch.arange(8) == 0) + x * (torch.arange(8) > 0) * 0.0,
    ],
)
def test_anything_but_an_isotropic_gaussian_costs_more(spoil: object) -> None:
    samples = normal(500, 8)
    assert statistic(spoil(samples)) > 5 * statistic(samples)  # type: ignore[operator]


def test_descending_it_turns_a_collapsed_cloud_into_a_gaussian() -> None:
    cloud = (normal(256, 4) * 0.05 + 0.5).requires_grad_()
    optimizer = torch.optim.Adam([cloud], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        sigreg(cloud).backward()
        optimizer.step()
    result = cloud.detach()
    torch.testing.assert_close(result.mean(0), torch.zeros(4), atol=0.1, rtol=0)
    torch.testing.assert_close(result.T.cov(), torch.eye(4), atol=0.2, rtol=0)
