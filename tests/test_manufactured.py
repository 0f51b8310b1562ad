"""A manufactured drift has the steady state it was made for: by algebra, by the generator and by its paths."""

import pickle

import numpy as np
import pytest
import sympy as sp

import sde_sgd as sde

X, Y, Z = sp.symbols("x y z", real=True)
T = sp.Symbol("T", positive=True)
PHI = {
    1: "x**4/4 - x**2/2 + x/5",
    2: "(x**2 - 1)**2/4 + y**2/2 + x*y/3",
    3: "(x**2 - 1)**2/4 + y**2/2 + z**2 + x*y*z/4 + z**4/4",
}
D = {
    1: [["1 + x**2/2"]],
    2: [["2 + sin(x)", "cos(y)/2"], ["cos(y)/2", "1 + x**2/4"]],
    3: [["2 + sin(y)", "z/4", "0"], ["z/4", "1 + x**2 + z**2", "cos(x)/3"], ["0", "cos(x)/3", "1"]],
}
Q = {1: None, 2: "sin(x)*y + T*x", 3: ("x*y", "sin(z) + T", "cos(y)*x")}
NAMES = ("x", "y", "z")


def made(dim, q=..., **settings):
    return sde.Landscape.manufactured(NAMES[:dim], PHI[dim], D[dim], Q[dim] if q is ... else q, **settings)


def own(expression, dim):
    """A SymPy expression with this file's symbols."""
    table = dict(zip(NAMES, (X, Y, Z))) | {"T": T}
    return expression.xreplace({s: table[s.name] for s in expression.free_symbols})


def by_hand(dim):
    """Φ, D, Q in SymPy, with Q written out as a matrix."""
    phi, d = (
        sp.sympify(PHI[dim], locals=dict(x=X, y=Y, z=Z)),
        sp.Matrix(dim, dim, lambda i, j: sp.sympify(D[dim][i][j])),
    )
    read = lambda text: sp.sympify(text, locals=dict(x=X, y=Y, z=Z, T=T))  # noqa: E731
    if dim == 1:
        q = sp.zeros(1, 1)
    elif dim == 2:
        q = sp.Matrix([[0, read(Q[2])], [-read(Q[2]), 0]])
    else:
        a, b, c = map(read, Q[3])
        q = sp.Matrix([[0, c, -b], [-c, 0, a], [b, -a, 0]])
    return phi, d.applyfunc(lambda e: own(e, dim)), q


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_generator_annihilates_the_density_in_symbols(dim):
    """∂_i(b_i ρ − T ∂_j(D_ij ρ)) = 0 for ρ = e^{−Φ/T}, that is div j = j·∇Φ/T, every symbol of it."""
    landscape, x = made(dim), (X, Y, Z)[:dim]
    phi, d, q = by_hand(dim)
    drift = [own(e, dim) for e in landscape._group("drift")[0]]

    def divergence(fields):
        """div(vρ)/ρ = div v − v·∇Φ/T."""
        return sum(sp.diff(v, a) - v * sp.diff(phi, a) / T for v, a in zip(fields, x))

    def remainder(drift):
        """J/ρ."""
        return [sp.expand(b - T * divergence(row)) for b, row in zip(drift, d.tolist())]

    j = remainder(drift)
    assert sp.expand(divergence(j)) == 0
    for component, row in zip(j, q.tolist()):  # J = T div(Qρ), by rows
        assert sp.expand(component - T * divergence(row)) == 0
    if dim > 1:
        swapped = [b - T * sum(sp.diff(q[i, k], x[k]) for k in range(dim)) * 2 for i, b in enumerate(drift)]
        wrong = sp.expand(divergence(remainder(swapped))).subs({T: 0.6, X: 0.3, Y: 0.7, Z: -0.4})
        assert abs(wrong) > 1e-3  # the other sign of div Q fails


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.2, 1.7])
def test_identities_in_numbers(dim, temperature):
    """I1, I2 and the definition of j, from the compiled functions and central differences."""
    landscape, rng = made(dim), np.random.default_rng(1)
    x = rng.normal(size=(50, dim))
    j = landscape.remainder(x, temperature)

    def central(function):
        return np.stack([(function(x + 1e-5 * e) - function(x - 1e-5 * e)) / 2e-5 for e in np.eye(dim)], -1)

    slope = central(lambda p: landscape.potential(p, temperature))
    np.testing.assert_allclose(landscape.gradient(x), slope, rtol=1e-7, atol=1e-7)
    q = landscape.q_matrix(x, temperature)
    np.testing.assert_array_equal(q, -np.swapaxes(q, -1, -2))
    div_q = np.einsum("...ijj->...i", central(lambda p: landscape.q_matrix(p, temperature)))
    np.testing.assert_allclose(j, temperature * div_q - np.einsum("...ij,...j", q, slope), rtol=1e-6, atol=1e-6)
    from_drift = landscape.drift(x, temperature) + np.einsum(
        "...ij,...j", landscape.diffusion(x), landscape.gradient(x)
    )
    np.testing.assert_allclose(j, from_drift - temperature * landscape.diffusion_divergence(x), rtol=1e-9, atol=1e-9)
    div_j = np.einsum("...ii", central(lambda p: landscape.remainder(p, temperature)))
    np.testing.assert_allclose(div_j, (j * slope).sum(-1) / temperature, rtol=1e-6, atol=1e-5)
    assert dim == 1 or np.abs(j).max() > 0.1


def test_q_in_its_three_forms():
    x = np.random.default_rng(2).normal(size=(7, 3))
    matrix = [["0", "cos(y)*x", "-sin(z) - T"], ["-cos(y)*x", "0", "x*y"], ["sin(z) + T", "-x*y", "0"]]
    one, other = made(3), made(3, matrix)
    np.testing.assert_allclose(one.drift(x, 0.3), other.drift(x, 0.3), rtol=1e-12)
    entries = one.q(x, 0.3)
    assert entries.shape == (7, 3)
    np.testing.assert_allclose(entries[:, 0], x[:, 0] * x[:, 1])
    # Q∇Φ is ∇Φ × q
    slope = one.gradient(x)
    np.testing.assert_allclose(
        np.einsum("nij,nj->ni", one.q_matrix(x, 0.3), slope), np.cross(slope, entries), rtol=1e-12
    )
    flat = x[:, :2]
    whole = made(2, sp.Matrix([[0, sp.sin(X) * Y + T * X], [-sp.sin(X) * Y - T * X, 0]]))
    np.testing.assert_allclose(whole.drift(flat, 0.3), made(2).drift(flat, 0.3), rtol=1e-13)
    np.testing.assert_allclose(made(2).q(flat, 0.3), np.sin(flat[:, 0]) * flat[:, 1] + 0.3 * flat[:, 0])
    assert made(2).q(flat, 0.3).shape == (7,) and made(1).q(x[:, :1]) is None


def test_example_19_is_a_case_of_it():
    """Chaudhari & Soatto's example through its q, against the catalogue's drift."""
    phi = "(x**2 - 1)**2/4 + y**2/2"
    q = f"lam*sqrt(pi)/(2*T)*erfc((x**2 + y**2)/2)*exp(({phi})/T)"
    landscape = sde.Landscape.manufactured(("x", "y"), phi, q=q, parameters={"lam": 0.5})
    known = sde.landscapes.get("example_19")
    x = np.random.default_rng(3).normal(size=(20, 2))
    for temperature in (0.4, 1.0):
        np.testing.assert_allclose(landscape.drift(x, temperature), known.drift(x, temperature), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(
            landscape.remainder(x, temperature), known.remainder(x, temperature), rtol=1e-7, atol=1e-10
        )
    np.testing.assert_allclose(
        landscape.with_parameters(lam=1.5).drift(x, 1.0),
        sde.landscapes.get("example_19", circulation=1.5).drift(x, 1.0),
        rtol=1e-9,
        atol=1e-10,
    )


def test_without_q_the_density_is_gibbs_to_rounding():
    """b = −D∇Φ + T div D is recognised; with Q the generator sees b and D alone, and converges."""
    grid = sde.Grid((-3, -4), (3, 4), (24, 20))
    process = made(2, None).at_temperature(0.6)
    rho = sde.FokkerPlanck(process, grid).steady_state()
    exact = np.exp(-process.potential(grid.centers()) / 0.6)
    exact /= exact.sum() * grid.cell_volume
    np.testing.assert_allclose(rho.values, exact, rtol=1e-10)
    assert made(2).at_temperature(0.6).equilibrium_potential is None


def test_walls_are_the_users_to_respect():
    """A q that vanishes on reflecting walls leaves e^{−Φ/T} stationary; one that does not, does not."""
    phi, d = "x**2/2 + x*y/4 + y**2/3", [["1 + x**2/4", "x*y/5"], ["x*y/5", "1"]]
    errors = {}
    for name, q in {"bump": "2*(1 - x**2)**2*(1 - y**2)**2", "none": "2"}.items():
        errors[name] = []
        for cells in (16, 32, 64):
            landscape = sde.Landscape.manufactured(("x", "y"), phi, d, q, domain=((-1, 1), (-1, 1)))
            process, grid = landscape.at_temperature(0.5), sde.Grid((-1, -1), (1, 1), (cells, cells))
            exact = np.exp(-process.potential(grid.centers()) / 0.5)
            exact /= exact.sum() * grid.cell_volume
            found = sde.FokkerPlanck(process, grid).steady_state().values
            errors[name].append(np.abs(found - exact).sum() * grid.cell_volume)
    orders = np.log2(np.array(errors["bump"][:-1]) / errors["bump"][1:])
    assert orders[-1] == pytest.approx(2.0, abs=0.1), errors
    assert min(errors["none"]) > 0.05  # no refinement mends it


@pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.evidence)])
def test_moments_of_paths(dim):
    """Means and second moments of simulated paths against quadrature of e^{−Φ/T}, within five standard errors."""
    temperature = 0.5
    process = made(dim).at_temperature(temperature)
    axis = (np.arange(80) + 0.5) / 80 * 8 - 4
    points = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    weight = np.exp(-process.potential(points) / temperature)
    weight /= weight.sum()
    exact = np.concatenate([weight @ points, weight @ points**2])
    # burnt in from both wells; weak order 1 leaves a bias of about 3 h
    runs = {}
    for h in (0.01, 0.005):
        found = sde.simulate(
            process, np.zeros(dim), step=h, steps=int(8 / h), paths=20_000, scheme="euler_maruyama", seed=5
        )
        x = np.stack([found[v].values for v in process.variables], -1)
        values = np.concatenate([x, x**2], -1)
        runs[h] = values.mean(0), values.std(0) / np.sqrt(len(x))
    mean, error = 2 * runs[0.005][0] - runs[0.01][0], np.hypot(2 * runs[0.005][1], runs[0.01][1])
    assert (np.abs(mean - exact) < 5 * error).all(), (mean, exact, error)
    assert error.max() < 0.06


def test_it_travels():
    landscape = made(3, domain={"z": (-5, 5)}, name="swirl")
    again = pickle.loads(pickle.dumps(landscape))
    x = np.random.default_rng(4).normal(size=(4, 3))
    np.testing.assert_array_equal(landscape.drift(x, 0.3), again.drift(x, 0.3))
    assert again.name == "swirl" and "remainder" in again.latex() and made(2).name == "manufactured"
    assert isinstance(landscape, sde.Landscape) and landscape.known_fixed_points() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((("x", "y"), "x**2 + y**2", [["1", "x"], ["0", "1"]]), "diffusion is not symmetric"),
        ((("x", "y"), "x**2 + y**2", [[1, 2], [2, 1]]), "indefinite"),
        (("x", "x**2", None, "1"), "q must be None in one variable"),
        ((NAMES, "x**2", None, "1"), r"for 3 give \(q23, q31, q12\)"),
        ((NAMES, "x**2", None, ("1", "x")), r"q has 2 entries; for 3 variables give three"),
        ((("x", "y"), "x**2", None, ("1", "x", "y")), "q has 3 entries; for 2 variables give one expression"),
        ((("x", "y"), "x**2", None, [["0", "x"], ["x", "0"]]), "q is not antisymmetric"),
        ((("x", "y"), "x**2", None, [["1", "x"], ["-x", "0"]]), "q is not antisymmetric"),
        ((("x", "y"), "x**2", None, [["0", "x"]]), "q must have 2 rows"),
        ((NAMES, "x**2", None, [["0", "x"], ["-x", "0"], ["0", "0"]]), r"q\[0\] must have 3 entries"),
        ((("x", "y"), "x**2", None, "w"), "unknown symbol 'w'"),
        ((("x", "y"), "x**2 + T*y**2"), "potential contains T"),
        ((("a", "b", "c", "d"), "a**2", None, ("1",) * 6), "q has 6 entries; for 4 variables give the 4×4 matrix"),
    ],
)
def test_faults_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        sde.Landscape.manufactured(*arguments)


@pytest.mark.parametrize(
    ("potential", "diffusion", "q", "words"),
    [
        ("x", None, None, "potential jumps by 2 where the periodic axis 'x' closes"),
        ("cos(pi*x)", [["2 + x", 0], [0, 1]], None, "diffusion jumps"),
        ("cos(pi*x)", None, "x*y", "q jumps"),
    ],
)
def test_periodic_seams_must_close(potential, diffusion, q, words):
    domain = {"x": (-1, 1, "periodic")}
    with pytest.raises(ValueError, match=words):
        sde.Landscape.manufactured(("x", "y"), potential, diffusion, q, domain=domain)
    closed = sde.Landscape.manufactured(("x", "y"), "cos(pi*x) + y**2", None, "sin(pi*x)*y", domain=domain)
    assert closed.domain.periodic == (True, False)


def test_more_than_three_variables_take_the_whole_matrix():
    names, q = (
        ("a", "b", "c", "d"),
        [["0", "a", "1", "b"], ["-a", "0", "d", "0"], ["-1", "-d", "0", "c"], ["-b", "0", "-c", "0"]],
    )
    landscape = sde.Landscape.manufactured(names, "a**2 + b**2/2 + c**4/4 + d**2", None, q)
    x = np.random.default_rng(5).normal(size=(5, 4))
    j = landscape.remainder(x, 0.7)
    steps = 1e-5 * np.eye(4)
    div = sum(
        (landscape.remainder(x + e, 0.7) - landscape.remainder(x - e, 0.7))[:, i] / 2e-5 for i, e in enumerate(steps)
    )
    np.testing.assert_allclose(div, (j * landscape.gradient(x)).sum(-1) / 0.7, atol=1e-7)
    assert landscape.q(x) is None and landscape.q_matrix(x).shape == (5, 4, 4)
