"""LocalPrediction where the answer is known: quadratic losses with constant and with growing noise, and what fails."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import sde_sgd as sde
from sde_sgd.validation import LocalPrediction
from sde_sgd.validation._prediction_space import joint_span

ROOT = np.array([[2.0, 0.0, 0.0], [0.6, 1.2, 0.0], [0.0, -0.5, 0.7]])
BEND = ROOT.T @ ROOT


class Bowl(nn.Module):
    """Outputs R(w − c_k), whose half square has the Hessian RᵀR for every sample: D does not depend on w."""

    def __init__(self, center):
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(center, dtype=torch.float64))
        self.register_buffer("root", torch.as_tensor(ROOT))

    def forward(self, centers):
        return (self.w - centers) @ self.root.T


def half_square(output, target):
    return 0.5 * ((output - target) ** 2).sum(dim=tuple(range(1, output.ndim))).mean()


@pytest.fixture(scope="module")
def bowl():
    rng = np.random.default_rng(2)
    centers = rng.normal(size=(60, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.5, -0.9], [0.0, 0.0, 1.1]])
    data = torch.as_tensor(centers), torch.zeros(60, 3, dtype=torch.float64)
    return Bowl(centers.mean(axis=0)), data, centers


def run_of(centers, directions, *, rate, batch, decay=0.0, steps, replicas=16, seed=1):
    """Plain recursion in NumPy, its own code and its own draws: (replica, time, direction)."""
    rng = np.random.default_rng(seed)
    w = np.zeros((replicas, 3)) + centers.mean(axis=0)
    states = np.empty((replicas, steps, len(directions)))
    for t in range(steps):
        means = centers[rng.integers(len(centers), size=(replicas, batch))].mean(axis=1)
        w = w - rate * ((w - means) @ BEND + decay * w)
        states[:, t] = w @ directions.T
    return xr.Dataset(
        {"state": (("replica", "time", "variable"), states)},
        {"time": rate * np.arange(1, steps + 1), "variable": [f"v{k}" for k in range(len(directions))]},
    )


def test_constant_noise_is_the_core_s_law_and_the_dense_equation(bowl):
    model, data, centers = bowl
    found = LocalPrediction(model, half_square, data, learning_rate=0.1, batch_size=4, weight_decay=0.05)
    noise = BEND @ np.cov(centers.T, bias=True) @ BEND
    bent = BEND + 0.05 * np.eye(3)
    whole = found.directions.T @ found.covariance @ found.directions
    assert np.abs(bent @ whole + whole @ bent - 0.1 * bent @ whole @ bent - 0.025 * noise).max() < 1e-12
    assert found.outside < 1e-12 and found.unstable == 0 and found.coupling == 0 and found.unseen.max() < 1e-12
    assert np.allclose(found.loss_hessian, np.diag(np.linalg.eigvalsh(bent)[::-1]), atol=1e-10)
    assert np.allclose(found.potential_hessian @ found.covariance, found.temperature * np.eye(3), atol=1e-12)
    small = LocalPrediction(model, half_square, data, learning_rate=1e-6, batch_size=4)
    assert np.allclose(small.area(1)[0], small.temperature * small.Q, rtol=1e-4, atol=1e-12)
    law = sde.OrnsteinUhlenbeck.at_minimum(BEND, noise, small.temperature)
    assert np.allclose(small.Q, small.directions @ law.Q @ small.directions.T, atol=1e-10)


def test_a_run_agrees_and_a_wrong_batch_or_h_for_u_does_not(bowl):
    """Bands of 5 standard errors of six variances: a false alarm in 3e-6 of the seeds."""
    model, data, centers = bowl
    settings = dict(learning_rate=0.15, weight_decay=0.02)
    found = LocalPrediction(model, half_square, data, batch_size=3, **settings)
    walk = run_of(centers, found.directions, rate=0.15, batch=3, decay=0.02, steps=6000)
    seen = found.compare(walk, [1, 3], burn_in=500)
    z = (seen["ratio"].values - 1) / seen["ratio_error"].values
    assert np.abs(z).max() < 5 and seen["ratio_error"].max() < 0.03
    assert np.abs(seen["slope"].values - 1).max() < 5 * float(seen["slope_error"].max())
    assert seen["correlation"].min() > 0.97 and float(seen["overall_p_value"]) < 0.01
    wrong = LocalPrediction(model, half_square, data, batch_size=4, **settings).compare(walk, 1, burn_in=500)
    assert (np.abs(wrong["ratio"].values - 1) / wrong["ratio_error"].values).max() > 8
    # H in place of U: off by factors, many standard errors each
    isotropic = found.temperature * np.linalg.inv(found.loss_hessian).diagonal()
    assert (np.abs(seen["variance"].values - isotropic) / seen["variance_error"].values).max() > 20


def test_linear_regression_at_the_minimum_and_with_its_mean_noise():
    """D grows with the distance: the prediction at w* is the law at center_diffusion, and with E D it is the truth."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(80, 4))
    y = X @ np.array([1.0, -1.0, 0.5, 2.0]) + rng.normal(size=80)
    grown = sde.DiscreteSGD.from_finite_sum(
        sde.FiniteSum.linear_model(X, y, "squared"), learning_rate=0.1, batch_size=2
    )
    model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(grown.center)[None])
    data = torch.as_tensor(X), torch.as_tensor(y)[:, None]
    local = LocalPrediction(model, half_square, data, learning_rate=0.1, batch_size=2, directions=np.eye(4))
    constant = sde.DiscreteSGD(grown.H, grown.center_diffusion, learning_rate=0.1, batch_size=2)
    assert np.allclose(local.covariance, constant.covariance, rtol=1e-9, atol=1e-14)
    assert (grown.covariance / local.covariance).diagonal().min() > 1.05  # what the noise at w* misses
    mean = LocalPrediction.from_matrices(grown.H, grown.D, learning_rate=0.1, batch_size=2, directions=np.eye(4))
    assert np.allclose(mean.covariance, grown.covariance, rtol=1e-9, atol=1e-14)
    C = grown.lag_covariance([3]).values[0]
    assert np.allclose(mean.area(3)[0], (C.T - C) / 0.6, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.8},
        {"momentum": 0.8, "nesterov": True},
        {"sampling": "without_replacement"},
        {"sampling": "reshuffling"},
    ],
)
def test_other_recursions_are_those_of_the_core(bowl, settings):
    model, data, centers = bowl
    found = LocalPrediction(
        model, half_square, data, learning_rate=0.05, batch_size=7, directions=np.eye(3), **settings
    )
    law = sde.DiscreteSGD(BEND, BEND @ np.cov(centers.T, bias=True) @ BEND, 0.05, 7, samples=60, **settings)
    assert np.allclose(found.covariance, law.covariance, rtol=1e-9, atol=1e-15)
    ahead = law.lag_covariance([5]).values[0]
    assert np.allclose(found.area(5)[0], (ahead.T - ahead) / 0.5, atol=1e-13)


def network():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    generator = torch.Generator().manual_seed(6)
    return model, (torch.randn(30, 5, generator=generator, dtype=torch.float64), torch.arange(30) % 2)


def test_the_leading_space_reaches_the_whole_one_and_says_what_it_misses():
    model, data = network()
    settings = dict(learning_rate=0.1, batch_size=4, weight_decay=2.0)  # large, so that all curvatures are positive
    whole = LocalPrediction(model, nn.CrossEntropyLoss(), data, **settings)
    size = whole.basis.shape[1]
    rows = whole.directions[:3]
    errors, missed = [], []
    for top in (2, 5, size):
        part = LocalPrediction(model, nn.CrossEntropyLoss(), data, directions=rows, top=top, **settings)
        assert part.unseen.max() < 1e-10
        errors.append(np.abs(part.covariance / whole.covariance[:3, :3] - 1).diagonal().max())
        missed.append((part.outside, part.coupling))
    assert errors[-1] < 1e-8 and max(missed[-1]) < 1e-8 and missed[0][0] > missed[1][0] > 1e-6
    # along eigenvectors of H nothing beyond the space matters
    assert max(errors) < 1e-7
    far = LocalPrediction(model, nn.CrossEntropyLoss(), data, top=2, **settings)
    assert "directions" in repr(far) and far.dataset()["area"].shape == (len(far.directions),) * 2


class Dense:
    """A matrix known by its products."""

    def __init__(self, matrix):
        self.matvec = np.asarray(matrix).__matmul__


def test_joint_span_of_dependent_rows_of_any_length():
    """Against dense projections; H leads out of a span that is not its own, and not out of one of eigenvectors."""
    rng = np.random.default_rng(0)
    H, D = (a @ a.T for a in rng.normal(size=(2, 4, 4)))
    rows = np.array([[1.0, 0, 0, 0], [0, 1e9, 0, 0], [1e-9, 1e-18, 0, 0]])
    basis, inner, scatter, coupling = joint_span(Dense(H), Dense(D), rows)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-14)
    assert np.abs(basis[:, 2:]).max() == 0
    np.testing.assert_allclose(basis.T @ inner @ basis, np.pad(H[:2, :2], (0, 2)), atol=1e-13)
    np.testing.assert_allclose(basis.T @ scatter @ basis, np.pad(D[:2, :2], (0, 2)), atol=1e-13)
    assert coupling == pytest.approx(np.linalg.norm(H[2:, :2]) / np.linalg.norm(H[:, :2]), rel=1e-12)
    vectors = np.linalg.eigh(H)[1]
    assert joint_span(Dense(H), Dense(D), 1e-9 * vectors.T[:2])[3] < 1e-12 < 0.1 < coupling


def test_the_leading_space_of_long_short_and_few_directions():
    """Directions count by where they point; of a D of rank 3 no more than 3 vectors are asked for."""
    model, data = network()
    settings = dict(learning_rate=0.1, batch_size=4, weight_decay=2.0, top=3)
    rows = np.random.default_rng(0).normal(size=(2, 34))
    one = LocalPrediction(model, nn.CrossEntropyLoss(), data, directions=rows, **settings)
    for size in (1e-9, 1e9):
        other = LocalPrediction(model, nn.CrossEntropyLoss(), data, directions=size * rows, **settings)
        assert other.unseen.max() < 1e-10 and other.outside == pytest.approx(one.outside, rel=1e-9)
        np.testing.assert_allclose(other.covariance / size**2, one.covariance, rtol=1e-9)
    four = tuple(part[:4].repeat(3, *[1] * (part.ndim - 1)) for part in data)
    few = LocalPrediction(model, nn.CrossEntropyLoss(), four, **settings | {"top": 8})
    assert len(few.basis) <= 8 + 3 and few.outside < 1e-10


def test_directions_without_a_steady_state_are_left_out_and_counted():
    H, D = np.diag([2.0, 1.0, 0.0, -0.3]), np.eye(4)
    found = LocalPrediction.from_matrices(H, D, learning_rate=0.1, batch_size=1, directions=np.eye(4)[:2])
    assert found.unstable == 2 and found.outside == pytest.approx(0.5) and found.unseen.max() == 0
    tilted = LocalPrediction.from_matrices(H, D, learning_rate=0.1, batch_size=1, directions=[[1.0, 0, 1.0, 0]])
    assert tilted.unseen[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 1.5}, "not stable"),
        ({"batch_size": 0}, "batch_size"),
        ({"directions": [[1.0, 0.0], [2.0, 0.0]]}, "independent"),
        ({"directions": [[1.0]]}, r"shape \(k, 2\)"),
        ({"H": [[1.0, 2.0], [0.0, 1.0]]}, "not symmetric"),
        ({"H": [[-1.0, 0.0], [0.0, -2.0]]}, "no direction of positive curvature"),
        ({"D": np.zeros((2, 2))}, "D is 0"),
        ({"sampling": "reshuffling"}, "samples"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_refusals(change, said):
    given = {"H": np.diag([2.0, 1.0]), "D": np.eye(2), "learning_rate": 0.1, "batch_size": 2} | change
    with pytest.raises(ValueError, match=said):
        LocalPrediction.from_matrices(**given)


def test_a_run_of_another_size_and_reshuffled_temperature_are_refused(bowl):
    model, data, centers = bowl
    found = LocalPrediction(model, half_square, data, learning_rate=0.1, batch_size=7, sampling="reshuffling")
    with pytest.raises(ValueError, match="no temperature"):
        found.potential_hessian  # noqa: B018
    assert "potential_hessian" not in found.dataset()
    walk = run_of(centers, np.eye(3)[:2], rate=0.1, batch=7, steps=100)
    with pytest.raises(ValueError, match="2 variables and the prediction 3"):
        found.compare(walk)
    with pytest.raises(ValueError, match="increasing"):
        found.area([2, 1])
