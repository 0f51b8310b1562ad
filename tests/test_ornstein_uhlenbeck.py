"""The Ornstein–Uhlenbeck process in closed form: identities to 1e-12, other roads to the same numbers, refusals.

Seeds are fixed. With fresh ones the scores held at 4.5 standard errors raise a false alarm in 3e-4 of the runs.
"""

import re
import resource
import time

import numpy as np
import pytest
import scipy.linalg as la
from scipy.integrate import solve_ivp

import sde_sgd as sde
from sde_sgd.figures import plot_lag_covariance, plot_linear_theory

T = 0.3


def stable(d, seed=0, symmetric=False):
    """A random F with every eigenvalue right of 0.1, and a random D."""
    rng = np.random.default_rng(seed + d)
    F = rng.normal(size=(d, d)) / np.sqrt(d)
    F = F @ F.T if symmetric else F
    F += (0.1 + max(0.0, -np.linalg.eigvals(F).real.min())) * np.eye(d)
    B = rng.normal(size=(d, d))
    return F, B @ B.T / d


def law(d, seed=0, symmetric=False):
    return sde.OrnsteinUhlenbeck(*stable(d, seed, symmetric), T)


def relative(a, b):
    return la.norm(np.asarray(a) - np.asarray(b)) / la.norm(b)


# identities ------------------------------------------------------------------------------------------------


def test_the_example_of_theory():
    """F = diag(1, 3), D = [[1, ½], [½, 1]], T = 1: S = [[1, ¼], [¼, ⅓]], Q₁₂ = −¼, e_p = ⅓."""
    known = sde.OrnsteinUhlenbeck(np.diag([1.0, 3.0]), [[1, 0.5], [0.5, 1]], 1.0)
    np.testing.assert_allclose(known.covariance, [[1, 0.25], [0.25, 1 / 3]], rtol=1e-15)
    np.testing.assert_allclose(known.Q, [[0, -0.25], [0.25, 0]], rtol=1e-15)
    assert known.entropy_production == pytest.approx(1 / 3, rel=1e-14) and not known.detailed_balance


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("d", [2, 3, 10, 50, 200])
def test_identities_hold_to_rounding(d, symmetric):
    ou = law(d, symmetric=symmetric)
    F, D, S, Q, U = ou.F, ou.D, ou.covariance, ou.Q, ou.potential_hessian
    assert ou.residual < 1e-12 and relative(F @ S + S @ F.T, 2 * T * D) < 1e-12
    assert np.array_equal(Q, -Q.T) and relative(F @ Q + Q @ F.T, F @ D - D @ F.T) < 1e-12
    assert relative(F @ S / T, D + Q) < 1e-12
    assert relative(U @ S / T, np.eye(d)) < 1e-15 * np.linalg.cond(S) < 1e-8  # an inverse knows no more
    x = np.random.default_rng(1).normal(size=(4, d))
    assert relative(ou.remainder(x), -(F @ x.T).T + x @ U @ D) < 1e-12 * np.linalg.cond(S)
    assert relative(ou.potential(x), np.array([0.5 * u @ U @ u for u in x])) < 1e-12
    if symmetric:  # S_ij = 2T D_ij/(h_i + h_j)
        h, V = la.eigh(F)
        assert relative(V.T @ S @ V, 2 * T * (V.T @ D @ V) / (h[:, None] + h)) < 1e-12


@pytest.mark.parametrize("d, symmetric", [(2, False), (10, False), (10, True), (100, False)])
def test_Q_by_eigenvectors(d, symmetric):
    ou = law(d, symmetric=symmetric)
    assert relative(ou.spectral_Q(), ou.Q) < 1e-11
    wrong = sde.OrnsteinUhlenbeck(ou.F.T, ou.D, T)
    assert relative(wrong.spectral_Q(), ou.Q) > 0.1 or symmetric


def test_nearly_dependent_eigenvectors_are_refused_and_Q_is_still_right():
    ou = sde.OrnsteinUhlenbeck([[1, 1], [0, 1]], np.eye(2), 1.0)
    assert relative(ou.F @ ou.Q + ou.Q @ ou.F.T, ou.F - ou.F.T) < 1e-15
    with pytest.raises(ValueError, match="nearly dependent"):
        ou.spectral_Q()


def test_detailed_balance_is_commuting_with_a_symmetric_drift():
    H, _ = stable(5, symmetric=True)
    ou = sde.OrnsteinUhlenbeck.at_minimum(H, 0.3 * H + H @ H, T)
    assert ou.detailed_balance and np.abs(ou.Q).max() < 1e-15 and ou.entropy_production < 1e-25
    assert np.abs(ou.spectrum([0.5, 2.0]).values.imag).max() < 1e-15
    anisotropic = sde.OrnsteinUhlenbeck.at_minimum(np.diag([1.0, 5.0]), np.diag([3.0, 1.0]), T)
    assert anisotropic.detailed_balance  # unequal eigenvalues alone turn nothing
    assert not law(5, symmetric=True).detailed_balance


# entropy production, four roads --------------------------------------------------------------------------------


@pytest.mark.parametrize("d, symmetric", [(2, False), (6, True), (30, False)])
def test_entropy_production_by_other_roads(d, symmetric):
    ou = law(d, symmetric=symmetric)
    inverse, M = la.inv(ou.D), ou.remainder_matrix
    size = 1e-13 * np.linalg.cond(ou.D) * np.linalg.cond(ou.covariance)
    from_remainder = np.trace(inverse @ M @ ou.covariance @ M.T) / T
    from_area = np.trace(ou.F.T @ inverse @ ou.irreversibility) / T  # the heat −E[(D⁻¹F x)·∘dx]/T
    from_drift = np.trace(inverse @ ou.F @ ou.covariance @ ou.F.T) / T - np.trace(ou.F)
    for other in (from_remainder, from_area, from_drift):
        assert other == pytest.approx(ou.entropy_production, rel=size)


def test_entropy_production_is_the_rate_at_which_time_shows():
    """KL((x(0), x(τ)) ‖ (x(τ), x(0)))/τ → e_p, error of order τ."""
    ou = sde.OrnsteinUhlenbeck([[1, 2], [-1, 3]], [[1, 0.5], [0.5, 1]], T)
    errors = []
    for tau in (0.004, 0.002, 0.001):
        later = ou.lag_covariance(tau).values[0]
        forward = np.block([[ou.covariance, later.T], [later, ou.covariance]])
        backward = np.block([[ou.covariance, later], [later.T, ou.covariance]])
        errors.append(0.5 * (np.trace(la.solve(backward, forward)) - 4) / tau / ou.entropy_production - 1)
    slopes = np.diff(np.log(np.abs(errors))) / np.log(0.5)
    assert (np.abs(slopes - 1) < 0.05).all() and abs(errors[-1]) < 0.01


# time and frequency ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
def test_lag_covariance_solves_its_equation(symmetric):
    """dC/dt = −FC by an integrator, and (C − Cᵀ)/t → −2TQ with an error of order t²… times t."""
    ou = law(5, symmetric=symmetric)
    times = np.array([0.0, 0.3, 1.0, 4.0])
    C = ou.lag_covariance(times)
    flow = solve_ivp(lambda t, c: -(ou.F @ c.reshape(5, 5)).ravel(), (0, 4), ou.covariance.ravel(), "DOP853", times,
                     rtol=1e-12, atol=1e-14)  # fmt: skip
    assert C.dims == ("time", "variable", "variable_2")
    np.testing.assert_allclose(C.values, flow.y.T.reshape(4, 5, 5), atol=1e-10)
    errors = []
    for t in (0.02, 0.01):
        c = ou.lag_covariance(t).values[0]
        errors.append(la.norm((c - c.T) / t + 2 * ou.irreversibility))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.05)
    for times, fault in (([-1.0, 0.0], "transpose"), ([0.0, 1.0, 0.5], "got 1 before 0.5"), ([], "shape")):
        with pytest.raises(ValueError, match=fault):
            ou.lag_covariance(times)


@pytest.mark.parametrize("symmetric", [False, True])
def test_spectrum_integrates_to_the_covariance(symmetric):
    """∫dω/2π, ω = tan(θ/2): a smooth periodic integrand, so that the trapezium rule converges geometrically."""
    ou = law(4, symmetric=symmetric)
    theta = (np.arange(4000) + 0.5) * 2 * np.pi / 4000 - np.pi
    density = ou.spectrum(np.tan(theta / 2)).values
    total = (density * (0.5 / np.cos(theta / 2) ** 2)[:, None, None]).sum(0) / 4000
    assert relative(total, ou.covariance) < 1e-12
    assert relative(density.conj().swapaxes(1, 2), density) < 1e-14
    assert np.linalg.eigvalsh(density[::100]).min() > 0
    t, weights = np.polynomial.legendre.leggauss(400)  # ∫C(t)e^{−iωt} dt at one ω
    t, weights = 75 * (t + 1), 75 * weights
    half = np.einsum("t,tij->ij", weights * np.exp(-0.7j * t), ou.lag_covariance(t).values)
    assert relative(half + half.conj().T, ou.spectrum(0.7).values[0]) < 1e-5


@pytest.mark.parametrize("symmetric", [False, True])
def test_exact_update(symmetric):
    """Against Van Loan's exponential, 2TDt − T(FD + DFᵀ)t² at short times, and S at long ones."""
    ou = law(6, symmetric=symmetric)
    block = la.expm(np.block([[ou.F, 2 * T * ou.D], [np.zeros((6, 6)), -ou.F.T]]) * 0.9)
    exact = ou.transition(0.9)
    assert relative(exact.propagator, la.expm(-ou.F * 0.9)) < 1e-12
    assert relative(exact.covariance, la.inv(block[:6, :6]) @ block[:6, 6:]) < 1e-11
    t = 1e-8
    series = 2 * T * t * (ou.D - 0.5 * t * (ou.F @ ou.D + ou.D @ ou.F.T))
    assert relative(ou.transition(t).covariance, series) < 1e-14
    E, S = la.expm(-ou.F * t), ou.covariance
    assert relative(S - E @ S @ E.T, series) > 1e-10  # the formula of the books has lost its digits
    assert relative(ou.transition(400.0).covariance, S) < 1e-12


def test_samples_are_the_recursion_and_follow_the_law():
    F, D = stable(3, seed=2)
    ou = sde.OrnsteinUhlenbeck(F, D, T, center=[1.0, -2.0, 0.5], variables=("a", "b", "c"))
    run = ou.sample(200, 0.4, seed=5, paths=4000)
    assert run.a.dims == ("path", "time") and run.time.values[-1] == pytest.approx(80) and run.attrs["seed"] == 5
    x = np.stack([run[name].values for name in "abc"], -1) - ou.center
    exact = ou.transition(0.4)
    xi = np.random.default_rng(5).standard_normal((201, 4000, 3))
    values, vectors = la.eigh(exact.covariance.values)
    y = x[:, 0]
    for n in range(1, 201):
        y = y @ exact.propagator.values.T + xi[n] @ (vectors * np.sqrt(values)).T
    assert np.abs(y - x[:, -1]).max() < 1e-12
    pairs = np.einsum("pti,ptj->pij", x[:, 2:], x[:, :-2]) / 199  # one independent block per path
    score = (pairs.mean(0) - ou.lag_covariance(0.8).values[0]) / (pairs.std(0) / np.sqrt(4000))
    assert np.abs(score).max() < 4.5
    again = ou.sample(200, 0.4, seed=5, paths=4000)
    assert again.equals(run) and not ou.sample(200, 0.4, seed=6, paths=4000).equals(run)
    started = ou.sample(3, 0.1, seed=1, paths=20_000, start=[3.0, 0.0, 0.0]).isel(time=3)
    mean = ou.center + la.expm(-0.3 * F) @ ([3.0, 0.0, 0.0] - ou.center)
    spread = np.sqrt(np.diag(ou.transition(0.3).covariance) / 20_000)
    assert (np.abs([float(started[n].mean()) for n in "abc"] - mean) < 4.5 * spread).all()
    assert law(20).sample(4, 0.1).state.dims == ("path", "time", "variable")


# landscapes and processes --------------------------------------------------------------------------------------


def test_the_same_law_as_the_linear_landscape():
    ou = sde.OrnsteinUhlenbeck([[1, 2], [-0.5, 1]], [[1, 0.3], [0.3, 0.6]], T, center=[1, 2], variables=("x", "y"))
    process, x = ou.process(), np.random.default_rng(0).normal(size=(5, 2))
    assert process.variables == ("x", "y") and process.temperature == T
    np.testing.assert_allclose(process.potential(x), ou.potential(x), rtol=1e-12)
    np.testing.assert_allclose(process.landscape.q(x), ou.Q[0, 1], rtol=1e-12)
    np.testing.assert_allclose(process.landscape.remainder(x, T), ou.remainder(x), rtol=1e-11, atol=1e-12)
    back = sde.OrnsteinUhlenbeck.from_landscape(process, [1, 2])
    assert relative(back.covariance, ou.covariance) < 1e-14 and back.center.tolist() == [1, 2]


def test_linearised_at_a_fixed_point():
    pearson, well = sde.landscapes.get("pearson"), sde.landscapes.get("double_well")
    point = pearson.known_fixed_points()[0]
    near = sde.OrnsteinUhlenbeck.from_landscape(pearson, point + 1e-8, 0.01)
    a, m = pearson.data["a"], pearson.data["m"]
    assert abs(near.center - point) < 1e-15 and near.temperature == 0.01 and near.variables == ("x",)
    exact = 0.01 * (a * (point - m)).var() / a.mean()
    assert near.covariance[0, 0] == pytest.approx(exact, rel=1e-12)
    for landscape, x, fault in (
        (pearson, [0.9], "no fixed point"),
        (pearson, [1.0, 2.0], "shape"),
        (well, np.zeros(well.dim), "saddle"),
        (sde.Underdamped(well, 0.1, 1.0), np.zeros(4), "velocities only"),
    ):
        with pytest.raises(ValueError, match=fault):
            sde.OrnsteinUhlenbeck.from_landscape(landscape, x, 0.1)
    functions = sde.Process(lambda x: (-x,), lambda x: ((1 + 0 * x,),), 1.0, variables=("x",),
                            diffusion_divergence=lambda x: (0 * x,))  # fmt: skip
    for temperature in (None, 0.1):
        with pytest.raises(ValueError, match="no derivative"):
            sde.OrnsteinUhlenbeck.from_landscape(functions, 0.0, temperature)


def test_the_generator_on_a_grid_finds_the_same_lag_covariance():
    """Second order in the spacing, and extrapolated to 0 the closed form."""
    ou = sde.OrnsteinUhlenbeck([[1, 1], [-1, 1.5]], np.eye(2), 0.3)
    exact, found = ou.lag_covariance(0.5).values[0], []
    for cells in (24, 48):
        fp = sde.FokkerPlanck(ou.process(), sde.Grid((-3, -3), (3, 3), (cells, cells)))
        found.append(fp.lag_covariance([0.5]).values[0])
    assert np.log2(relative(found[0], exact) / relative(found[1], exact)) == pytest.approx(2, abs=0.2)
    assert relative((4 * found[1] - found[0]) / 3, exact) < 1e-3


# refusals --------------------------------------------------------------------------------------------------


FLAT = np.diag([2.0, 1.0, 0.0])
REFUSED = {
    "flat": (FLAT, FLAT, "one direction is flat"),
    "saddle": (np.diag([1.0, -1.0]), np.eye(2), "saddle"),
    "rotation": ([[0, 1], [-1, 0]], np.eye(2), "saddle"),
    "unstable": (np.diag([1.0, -0.5]), np.eye(2), "not stable: its eigenvalue -0.5"),
    "unreached": (np.diag([1.0, 2.0, 3.0]), np.diag([1.0, 0.0, 1.0]), "only 2 of 3"),
    "no noise": (np.eye(2), np.zeros((2, 2)), "only 0 of 2"),
    "indefinite": (np.eye(2), np.diag([1.0, -1.0]), "indefinite"),
    "asymmetric": (np.eye(2), [[1, 1], [0, 1]], "not symmetric"),
    "large": (np.eye(2001), np.eye(2001), "at most 2000"),
    "not square": (np.ones((2, 3)), np.eye(2), "shape"),
}


@pytest.mark.parametrize("F, D, fault", REFUSED.values(), ids=REFUSED)
def test_no_stationary_density_is_refused_in_words(F, D, fault):
    with pytest.raises(ValueError, match=re.escape(fault)):
        sde.OrnsteinUhlenbeck(F, D, 1.0)


def test_the_span_that_the_noise_reaches():
    """D = cH with a flat direction: S = TcI on its complement; a chain F carries rank-one noise everywhere."""
    span = sde.OrnsteinUhlenbeck.restricted(FLAT, 0.7 * FLAT, T)
    assert span.dim == 2 and relative(span.covariance, 0.7 * T * np.eye(2)) < 1e-14
    assert np.abs(span.basis[2]).max() < 1e-15 and relative(span.basis.T @ span.basis, np.eye(2)) < 1e-15
    chain = 2 * np.eye(4) + np.diag(np.ones(3), -1)
    rank_one = sde.OrnsteinUhlenbeck(chain, np.diag([1.0, 0, 0, 0]), T)
    assert rank_one.residual < 1e-14
    with pytest.raises(ValueError, match="D is singular"):
        _ = rank_one.entropy_production
    with pytest.raises(ValueError, match="D is 0"):
        sde.OrnsteinUhlenbeck.restricted(chain, np.zeros((4, 4)), T)
    with pytest.raises(ValueError, match="saddle"):  # the noise reaches the unstable direction
        sde.OrnsteinUhlenbeck.restricted(np.diag([1.0, -1.0]), np.eye(2), T)


def test_noise_that_hardly_reaches_a_direction():
    """One source of noise for 30 rates: S_ij = 2T/(h_i + h_j), a Cauchy matrix, reached everywhere and yet singular."""
    h = np.arange(1.0, 31.0)
    ou = sde.OrnsteinUhlenbeck(np.diag(h), np.ones((30, 30)), T)
    np.testing.assert_allclose(ou.covariance, 2 * T / (h[:, None] + h), rtol=1e-12)
    run = ou.sample(4, 0.1, paths=20_000).state.values[:, 0]
    assert np.abs(run.std(0) / np.sqrt(T / h) - 1).max() < 4.5 / np.sqrt(40_000)
    with pytest.raises(ValueError, match="project on fewer directions"):
        _ = ou.potential_hessian


def test_results_cannot_be_changed():
    ou = law(2)
    for matrix in (ou.F, ou.D, ou.covariance, ou.Q, ou.potential_hessian):
        with pytest.raises(ValueError, match="read-only"):
            matrix[0, 0] = 1.0


def test_figures():
    axes = plot_linear_theory(sde.OrnsteinUhlenbeck(np.diag([1.0, 4.0]), [[1, 0.8], [0.8, 1]], T, variables=("x", "y")))
    assert axes.get_xlabel() == "x" and [t.get_text() for t in axes.get_legend().get_texts()][-1] == "remainder j"
    balanced = plot_linear_theory(law(4).at_minimum(np.eye(4), np.eye(4), T), ("x3", "x1"))
    assert [t.get_text() for t in balanced.get_legend().get_texts()] == ["stationary", "isotropic noise"]
    assert len(plot_lag_covariance(law(2).lag_covariance(np.linspace(0, 3, 20))).axes) == 2
    with pytest.raises(ValueError, match="two different"):
        plot_linear_theory(law(2), ("x0",))


@pytest.mark.evidence(table="linear_theory_large")
def test_two_thousand_variables(table):
    """Everything at the largest size: a general F (Schur form), a symmetric one, and SGD with momentum."""
    rows = []

    def timed(what, work, check):
        begun = time.process_time()
        result = work()
        used = time.process_time() - begun
        error = check(result)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append([what, f"{used:.0f}", f"{error:.1e}", f"{peak:.1f}"])
        assert error < 1e-12

    rng = np.random.default_rng(0)
    G, B = rng.normal(size=(2, 2000, 2000)) / np.sqrt(2000)
    F, H, D = G + 1.5 * np.eye(2000), G @ G.T + 0.1 * np.eye(2000), B @ B.T  # the eigenvalues of G fill the unit disc

    def identity(ou):
        assert np.array_equal(ou.Q, -ou.Q.T)
        return max(ou.residual, relative(ou.F @ ou.Q + ou.Q @ ou.F.T, ou.F @ ou.D - ou.D @ ou.F.T))

    def solved(F, D):
        ou = sde.OrnsteinUhlenbeck(F, D, T)
        _ = ou.Q
        return ou

    def sgd(**settings):
        law = sde.DiscreteSGD(H, D, 0.05, 8, **settings)
        _ = law.joint_covariance
        return law

    def left(law):
        """Of E[v'v'ᵀ] = E[vvᵀ] with v' = μv + Hx + ε."""
        S, X, V, mu = law.covariance, law.cross_covariance, law.velocity_covariance, law.momentum
        return relative(H @ S @ H + mu * (H @ X + X.T @ H) + mu**2 * V + D * law.noise_share, V)

    def work_of_noise(law):
        found = law.gradient_statistics
        exact = 0.5 * law.learning_rate * (1 + law.momentum) * float(found.velocity_square)
        return abs(float(found.position_batch_gradient) / exact - 1)

    timed("F general", lambda: solved(F, D), identity)
    timed("F symmetric", lambda: solved(H, D), identity)
    timed("SGD, μ = 0.9", lambda: sgd(momentum=0.9), left)
    timed("SGD, reshuffling, N = 800", lambda: sgd(samples=800, sampling="reshuffling", momentum=0.9), work_of_noise)
    columns = ["d = 2000", "CPU s", "relative error", "peak memory so far, GiB"]
    note = "Errors: of the Lyapunov equation and of FQ + QFᵀ = FD − DFᵀ; of E[v'v'ᵀ]; of E[x·g] = (η/2)(1+μ)E|v|²."
    table("The linear theory in 2000 variables", columns, rows, note)
