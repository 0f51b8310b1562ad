"""Eigenvalues to full relative accuracy however small, and their modes."""

import itertools

import mpmath as mp
import numpy as np
import pytest
import scipy.linalg as la
import scipy.sparse.linalg as sla

import sde_sgd as sde

F, D = np.array([[1.0, 2.0], [-2.0, 3.0]]), np.array([[1.0, 0.5], [0.5, 1.0]])


def linear(rates=F, noise=D, temperature=1.0):
    drift = [f"-({row[0]})*x - ({row[1]})*y" for row in rates]
    return sde.Process(drift, noise.tolist(), temperature, variables=("x", "y"))


def solver(process, half, cells, **options):
    d = process.dim
    return sde.FokkerPlanck(process, sde.Grid((-half,) * d, (half,) * d, (cells,) * d, **options))


def line(loss, temperature, cells, half=2.2, **options):
    return solver(sde.Landscape(("x",), loss).at_temperature(temperature), half, cells, **options)


def ring(force, cells=40, temperature=0.5, wave=0.0):
    process = sde.Process(
        [f"{force} - {wave}*sin(a)"], [[1]], temperature, variables=("a",), domain=((0, 2 * np.pi, "periodic"),)
    )
    return sde.FokkerPlanck(process, sde.Grid(0.0, 2 * np.pi, cells, boundary="periodic"))


def flat(fp, spectrum):
    left, right = (spectrum[side].values.reshape(spectrum.sizes["mode"], -1) for side in ("left", "right"))
    return left, right * fp.grid.cell_volume


def precise(fp, guess):
    """The eigenvalue next to `guess`, of a chain in 1-D, by inverse iteration with 120 digits."""
    with mp.workdps(120):
        log_forward, log_backward = fp.edges.log_rates()
        order = np.argsort(fp.edges.tail)
        assert np.array_equal(fp.edges.head[order], fp.edges.tail[order] + 1)
        # rates as the float64 pair (conductance, Péclet number) defines them
        up = [mp.e ** mp.mpf(float(v)) for v in log_forward[order]]
        down = [mp.e ** mp.mpf(float(v)) for v in log_backward[order]]
        n = fp.grid.size
        shift = mp.mpf(guess) * (1 + mp.mpf("1e-5"))
        diagonal = [(up[i] if i < n - 1 else 0) + (down[i - 1] if i else 0) - shift for i in range(n)]
        v, value = [mp.mpf(((i * 37) % 11) - 5) for i in range(n)], None
        for _ in range(7):
            # −Lᵀ: row i has −up[i] to the right and −down[i−1] to the left
            c, d = [mp.mpf(0)] * n, [mp.mpf(0)] * n
            for i in range(n):
                low = -down[i - 1] if i else mp.mpf(0)
                pivot = diagonal[i] - low * c[i - 1] if i else diagonal[0]
                c[i] = (-up[i] / pivot) if i < n - 1 else mp.mpf(0)
                d[i] = (v[i] - (low * d[i - 1] if i else 0)) / pivot
            w = [mp.mpf(0)] * n
            for i in range(n - 1, -1, -1):
                w[i] = d[i] - (c[i] * w[i + 1] if i < n - 1 else 0)
            k = max(range(n), key=lambda j: abs(w[j]))
            value, v = shift + v[k] / w[k], [x / w[k] for x in w]
        return value


def relative(found, exact):
    with mp.workdps(120):
        return abs(float((mp.mpf(float(found)) - exact) / exact))


# against what is known ------------------------------------------------------------------------------------


def test_a_dense_solver_and_every_mode_agree():
    """Eigenvalues, biorthonormality, both equations, and ρ(t) = Σ c e^{−λt} r with all modes, for three chains."""
    for fp in (line("(x**2-1)**2/4", 0.3, 30), ring(0.8, 31, wave=0.6), solver(linear(), 5.0, 7)):
        n = fp.grid.size
        spectrum = fp.spectrum(n)
        values, (left, right) = spectrum["eigenvalue"].values, flat(fp, spectrum)
        dense = -fp.matrix.toarray()
        assert np.abs(left @ right.T - np.eye(n)).max() < 1e-10
        assert np.abs(dense @ right.T - right.T * values).max() < 1e-9 * np.abs(values).max()
        assert np.abs(dense.T @ left.T - left.T * values).max() < 1e-8 * np.abs(left).max() * np.abs(values).max()
        exact = la.eigvals(dense)
        assert max(np.abs(exact - v).min() for v in values) < 1e-10 * np.abs(values).max()
        assert (np.diff(np.abs(values)) > -1e-9 * np.abs(values[1:])).all() and values[0] == 0.0
        start = np.zeros(n)
        start[n // 3] = 1.0
        later = (left @ start * np.exp(-0.2 * values)) @ right
        assert np.abs(later - la.expm(-0.2 * dense) @ start).max() < 1e-11


@pytest.mark.parametrize("rates", [np.diag([1.0, 1.7]), F], ids=["reversible", "turning"])
def test_those_of_a_linear_process_are_sums(rates):
    """λ = Σ n_i φ_i, φ the eigenvalues of F, complex where it turns; second order in the spacing."""
    noise = np.eye(2) if rates[0, 1] == 0 else D
    phi = la.eigvals(rates)
    sums = np.array([a * phi[0] + b * phi[1] for a in range(4) for b in range(4)])
    sums = sums[np.lexsort((-sums.imag, np.round(np.abs(sums), 9)))]
    errors = []
    for cells in (32, 64):
        spectrum = solver(linear(rates, noise), 6.0, cells).spectrum(5)
        values = spectrum["eigenvalue"].values
        assert np.iscomplexobj(values) == (rates[0, 1] != 0)
        assert float(spectrum["residual"].max()) < 1e-12
        errors.append(np.abs(values - sums[: values.size])[1:])
    assert errors[1].max() < 0.25 and (errors[0] / errors[1] > 3.4).all() and (errors[0] / errors[1] < 4.6).all()


def test_three_variables_against_a_dense_solver():
    drift = ["-x - 2*y", "2*x - 3*y", "x/2 - 2*z"]
    process = sde.Process(drift, [[1, 0.3, 0], [0.3, 1, 0.2], [0, 0.2, 1]], 0.5, variables=("x", "y", "z"))
    fp = solver(process, 2.5, 6)
    spectrum = fp.spectrum(7)
    exact = la.eigvals(-fp.matrix.toarray())
    values = spectrum["eigenvalue"].values
    assert max(np.abs(exact - v).min() for v in values) < 1e-12
    assert np.sort(np.abs(exact))[: values.size] == pytest.approx(np.abs(values), abs=1e-12)
    assert spectrum["right"].dims == ("mode", "x", "y", "z")


def test_a_flat_ring_has_those_of_its_circulant():
    fp = ring(0.8)
    forward, backward = (float(r[0]) for r in fp.edges.rates())
    if (fp.edges.head[0] - fp.edges.tail[0]) % 40 != 1:
        forward, backward = backward, forward
    angle = 2 * np.pi * np.array([0, 1, -1, 2, -2, 3, -3]) / 40
    exact = forward * (1 - np.exp(-1j * angle)) + backward * (1 - np.exp(1j * angle))
    found = fp.spectrum(7)["eigenvalue"].values
    assert found.size == 7 and max(np.abs(exact - v).min() for v in found) < 1e-12
    assert (found.imag[1::2] > 0).all() and np.array_equal(found[1::2], found[2::2].conj())


def test_no_copy_of_a_multiple_eigenvalue_is_missed():
    """x² + y²: 0, 1, 1, 2, 2, 2, of which two pairs are equal on the grid by symmetry."""
    fp = solver(linear(np.eye(2), np.eye(2)), 5.0, 40)
    spectrum = fp.spectrum(6)
    assert np.round(spectrum["eigenvalue"].values).tolist() == [0, 1, 1, 2, 2, 2]
    assert spectrum.attrs["next_modulus"] == pytest.approx(3, abs=0.15)
    left, right = flat(fp, spectrum)
    assert np.abs(left @ right.T - np.eye(6)).max() < 1e-12


# small gaps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "temperature", "half", "small"),
    [
        ("(x**2-1)**2", 1 / 100, 1.5, 1),  # gap e^−100
        ("3*x**2*(x**2-1)**2 + 0.02*x + 0.1*x**2", 0.004, 1.3, 2),  # two gaps, and fast modes 42 decades above
        ("(x**2-1)**2 + 0.3*x + 0.2*sin(9*x)", 1 / 60, 1.6, 4),
    ],
)
def test_a_tiny_gap_has_all_its_digits(loss, temperature, half, small):
    fp = line(loss, temperature, 160, half)
    spectrum = fp.spectrum(small + 3)
    values = spectrum["eigenvalue"].values
    assert values[1] < 1e-20 and values[-1] > 0.1
    for value, residual in zip(values[1:], spectrum["residual"].values[1:]):
        assert relative(value, precise(fp, value)) < 1e-10 and residual < 1e-10
    plain = sla.eigsh(_symmetric(fp), 2, sigma=-1e-8, which="LM")[0]  # what subtracting costs
    assert abs(plain.max() - values[1]) > 1e3 * values[1]


def test_the_next_modulus_is_that_of_the_next_mode():
    """Beside a gap of e^−100 the operator of the first level shows nothing but rounding."""
    fp = line("(x**2-1)**2", 1 / 100, 160, 1.5)
    few, more = fp.spectrum(2), fp.spectrum(3)
    assert few.attrs["next_modulus"] == pytest.approx(float(more["eigenvalue"][2]), rel=1e-9)
    assert len(few.attrs["shifts"]) == 2


def test_what_float64_cannot_time_is_refused():
    assert float(line("(x**2-1)**2", 1 / 650, 800, 1.6).spectrum(2)["eigenvalue"][1]) < 1e-280
    with pytest.raises(ValueError, match="takes longer than float64 can tell; raise the temperature"):
        line("(x**2-1)**2", 1 / 720, 800, 1.6).spectrum(2)


def _symmetric(fp):
    import scipy.sparse as sp

    root = np.exp(0.5 * np.maximum(fp.log_steady_state().values.ravel(), -600))
    matrix = sp.diags_array(1 / root) @ -fp.matrix @ sp.diags_array(root)
    return sp.csc_array(0.5 * (matrix + matrix.T))


def test_the_modes_of_a_tiny_gap_tell_the_wells_apart():
    """u is one number in each well, E_ss[u²] = 1, and r moves mass from one to the other."""
    fp = line("(x**2-1)**2 + 0.05*x", 0.01, 200, 1.5)
    spectrum = fp.spectrum(2)
    left, right = flat(fp, spectrum)
    left, right = -left, -right  # positive at first where √π·u is half its largest: that is in the rarer well
    mass = fp.steady_state().values * fp.grid.cell_volume
    x = fp.grid.axes[0]
    a, b = mass[x < 0].sum(), mass[x > 0].sum()
    assert left[1][x < -0.5] == pytest.approx(np.sqrt(b / a), rel=1e-9)
    assert left[1][x > 0.5] == pytest.approx(-np.sqrt(a / b), rel=1e-9)
    assert np.abs(right[1] - left[1] * mass).max() < 1e-14


def test_functions_are_right_where_nothing_ever_goes():
    """x²/2: u = x, (x² − 1)/√2 … as far as π = e^−1000, entry by entry, up to the order of the grid."""
    fp = line("x**2/2", 0.05, 400, 10.0)
    u = flat(fp, fp.spectrum(4))[0]
    x = fp.grid.axes[0] / np.sqrt(0.05)
    dense = -fp.matrix.T
    for k, exact in ((1, x), (2, (x**2 - 1) / np.sqrt(2)), (3, (x**3 - 3 * x) / np.sqrt(6))):
        far = np.abs(x) > 6
        assert np.abs(u[k] / exact * np.sign(u[k][0] * exact[0]) - 1)[far].max() < 0.1
        value = float(fp.spectrum(4)["eigenvalue"][k])
        assert (np.abs(dense @ u[k] - value * u[k]) <= 1e-6 * (abs(dense) @ np.abs(u[k]))).all()


def test_functions_in_a_well_that_is_left_more_slowly_than_they_decay():
    """Mass e^−60 in the other well: there u of a mode of the main one does not follow from its last few turns."""
    fp = line("0.225*(x**2-1)**2 + 0.25*x", 0.008, 300, 1.8)
    spectrum = fp.spectrum(7)
    left, right = flat(fp, spectrum)
    mass = fp.steady_state().values * fp.grid.cell_volume
    assert np.abs(left @ right.T - np.eye(7)).max() < 1e-9
    assert (left**2 @ mass) == pytest.approx(np.ones(7), rel=1e-9)
    side = fp.grid.axes[0] > 0.0
    main = int(np.argmin((left**2 * mass)[1:, side].sum(axis=1))) + 1  # the only one that lives in the main well
    u, value, dense = left[main], float(spectrum["eigenvalue"][main]), -fp.matrix.T
    assert (np.abs(dense @ u - value * u) <= 1e-6 * (abs(dense) @ np.abs(u))).all() and np.abs(u[side]).max() > 1e3


def gap_ratio(temperature, cells):
    """λ₁ over the Eyring–Kramers value of (x² − 1)², (√(f″_m |f″_s|)/π)·e^{−1/T}."""
    gap = float(line("(x**2-1)**2", temperature, cells, 2.5).spectrum(2)["eigenvalue"][1])
    return gap / (np.sqrt(32.0) / np.pi * np.exp(-1.0 / temperature))


def test_the_gap_tends_to_that_of_eyring_and_kramers():
    for temperature, ratio in ((0.25, 0.903), (0.15, 0.935), (0.10, 0.959), (0.07, 0.972)):
        assert gap_ratio(temperature, 1000) == pytest.approx(ratio, abs=1e-3)


@pytest.mark.evidence(table="spectral_gap")
def test_spectral_gap_down_to_low_temperatures(table):
    """The ratio tends to 1 as 1 − cT, at gaps down to e^−1000: extrapolated in the spacing."""
    rows, ratios = [], []
    for temperature in (0.25, 0.15, 0.10, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002):
        coarse, fine = gap_ratio(temperature, 2000), gap_ratio(temperature, 4000)
        ratio = (4 * fine - coarse) / 3
        ratios.append((temperature, ratio))
        rows.append([temperature, f"{np.exp(-1 / temperature):.3g}", f"{ratio:.6f}", f"{abs(fine - ratio):.1e}",
                     f"{(1 - ratio) / temperature:.4f}"])  # fmt: skip
    table(
        "Spectral gap of a double well over the Eyring–Kramers value",
        ["T", "e^(−ΔΦ/T)", "λ₁ / Eyring–Kramers", "left to extrapolation", "(1 − ratio)/T"],
        rows,
        "(x² − 1)², D = 1: λ₁ of `FokkerPlanck.spectrum(2)` on 2000 and 4000 cells of [−2.5, 2.5]; the ratio is "
        "1 − cT + O(T²).",
    )
    assert [round(r, 3) for _, r in ratios[:4]] == [0.903, 0.935, 0.959, 0.972]
    assert ratios[-1][1] > 0.999 and all(a[1] < b[1] < 1 for a, b in itertools.pairwise(ratios))


# relaxation and walls -------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [False, True])
def test_late_distances_decay_with_the_gap(turns):
    fp = ring(0.8, wave=0.6) if turns else line("(x**2-1)**2/4 + 0.1*x", 0.2, 80)
    rate = complex(fp.spectrum(2)["eigenvalue"][1])
    steady, start = fp.steady_state().values, np.zeros(fp.grid.size)
    start[5] = 1 / fp.grid.cell_volume
    period = np.pi / rate.imag if turns else 3.0 / rate.real  # half a turn: the same shape, other sign
    step = la.expm(fp.matrix.toarray() * period)
    late = np.linalg.matrix_power(step, 3) @ start
    distances = [np.abs(p - steady).sum() for p in (late, step @ late)]
    assert distances[1] / distances[0] == pytest.approx(np.exp(-rate.real * period), rel=2e-3)


def test_absorbing_walls_have_no_zero():
    """T(kπ/2)² on an interval of length 2 with D = 1, second order; u = r up to a factor."""
    errors = []
    for cells in (40, 80):
        spectrum = line("0*x", 0.7, cells, 1.0, boundary="absorbing").spectrum(3)
        exact = 0.7 * (np.pi * np.arange(1, 4) / 2) ** 2
        errors.append(np.abs(spectrum["eigenvalue"].values / exact - 1).max())
    assert errors[1] < 2e-3 and 3.8 < errors[0] / errors[1] < 4.2
    assert float(spectrum["condition"].max()) == pytest.approx(1, abs=1e-10)


def test_a_pair_is_kept_whole_and_the_same_call_gives_the_same_bits():
    fp = solver(linear(), 5.0, 16)
    for k, size in ((1, 1), (2, 3), (3, 3), (4, 4)):
        assert fp.spectrum(k).sizes["mode"] == size
    one, two = fp.spectrum(5), fp.spectrum(5)
    assert one.identical(two)
    assert fp.spectrum(3)["eigenvalue"].values == pytest.approx(one["eigenvalue"].values[:3], rel=1e-12)
    u = one["left"].values.reshape(one.sizes["mode"], -1) * np.sqrt(fp.steady_state().values.ravel())
    at = np.argmax(np.abs(u) >= 0.5 * np.abs(u).max(axis=1, keepdims=True), axis=1)
    assert (u[np.arange(len(u)), at].real > 0).all() and np.abs(u[np.arange(len(u)), at].imag).max() < 1e-12
    assert one.attrs["next_modulus"] >= np.abs(one["eigenvalue"].values[-1]) * (1 - 1e-9)
    np.testing.assert_allclose(one["right"][0].values, fp.steady_state().values, rtol=1e-12)


@pytest.mark.parametrize("k", [0, 31, 1.5, "two", True, None])
def test_k_is_a_number_of_cells(k):
    with pytest.raises(ValueError, match="k must be a whole number from 1 to 30"):
        line("x**2/2", 1.0, 30).spectrum(k)
