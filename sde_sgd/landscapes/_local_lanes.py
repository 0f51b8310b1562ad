"""The drift −∇f_γ for the path kernels: a quadrature compiled with the loss, refined at every point."""

import math

import numpy as np

from ._codegen import compile_functions
from ._landscape import Landscape
from ._lanes import LaneCode

_CHANGE = 1e-5  # of ⟨z⟩ when the step is halved; the error left is about its square


def lane_code(landscape, real: str) -> LaneCode:
    """The lines that call the jitted drift; ValueError where the loss is no single expression, or in d > 2."""
    inner = landscape.inner
    if landscape.dim > 2 or type(inner)._group is not Landscape._group or not hasattr(inner, "_loss"):
        raise ValueError(
            f"{landscape.name} has no paths: they need a loss that is one expression of one or two variables. Take "
            "the landscape itself, with a chain of your own around each point"
        )
    if inner.constant_diffusion() is None:
        raise ValueError(f"{landscape.name} has no paths: they need a diffusion matrix that does not depend on x")
    names = [f"x{i}" for i in range(landscape.dim)]
    lines = [f"slopes = slope({', '.join(names)})"]
    lines += [f"b{i} = np.{real}(-slopes[{i}])" for i in range(landscape.dim)]
    return LaneCode(
        dim=landscape.dim,
        lines=tuple(lines),
        constant_diffusion=inner.constant_diffusion(),
        functions={"slope": _slope(landscape)},
    )


def _slope(landscape):
    import numba

    inner, d = landscape.inner, landscape.dim
    gamma, t = landscape.smoothing["gamma"], landscape.smoothing["temperature"]
    values = tuple(inner.parameters.values())
    expression = inner._loss.subs(dict(zip(inner._parameter_symbols(), values)))
    loss = numba.njit(error_model="numpy")(compile_functions(inner.symbols, [expression], np))
    scale, back = math.sqrt(gamma * t), -math.sqrt(t / gamma)

    @numba.njit(error_model="numpy", nogil=True)
    def line(x):
        step, reach, before = 0.9, 9.0, math.inf
        while True:
            m = math.ceil(reach / step)
            top, total, first, ends = -math.inf, 0.0, 0.0, 0.0
            for i in range(-m, m + 1):
                z = step * i
                e = -loss(x + scale * z)[0] / t - 0.5 * z * z
                if e > top:  # rescale what has been summed
                    factor = math.exp(top - e)
                    total, first, ends, top = total * factor, first * factor, ends * factor, e
                w = math.exp(e - top)
                total, first = total + w, first + w * z
                if abs(i) == m:
                    ends += w
            mean = first / total
            if not math.isfinite(mean) or reach > 250.0 or step < 1e-4:
                return (math.nan,)
            if ends > 1e-15 * total:
                reach, before = 1.5 * reach, math.inf
                continue
            if abs(mean - before) < _CHANGE * max(1.0, abs(mean)):
                return (back * mean,)
            before, step = mean, 0.5 * step

    @numba.njit(error_model="numpy", nogil=True)
    def plane(x, y):
        step, reach, was_u, was_v = 0.9, 9.0, math.inf, math.inf
        while True:
            m = math.ceil(reach / step)
            top, total, first_u, first_v, ends = -math.inf, 0.0, 0.0, 0.0, 0.0
            for i in range(-m, m + 1):
                u = step * i
                for j in range(-m, m + 1):
                    v = step * j
                    e = -loss(x + scale * u, y + scale * v)[0] / t - 0.5 * (u * u + v * v)
                    if e > top:
                        factor = math.exp(top - e)
                        total, ends, top = total * factor, ends * factor, e
                        first_u, first_v = first_u * factor, first_v * factor
                    w = math.exp(e - top)
                    total, first_u, first_v = total + w, first_u + w * u, first_v + w * v
                    if abs(i) == m or abs(j) == m:
                        ends += w
            mean_u, mean_v = first_u / total, first_v / total
            if not math.isfinite(mean_u + mean_v) or reach > 250.0 or step < 1e-2:
                return (math.nan, math.nan)
            if ends > 1e-15 * total:
                reach, was_u, was_v = 1.5 * reach, math.inf, math.inf
                continue
            size = max(1.0, abs(mean_u), abs(mean_v))
            if max(abs(mean_u - was_u), abs(mean_v - was_v)) < _CHANGE * size:
                return (back * mean_u, back * mean_v)
            was_u, was_v, step = mean_u, mean_v, 0.5 * step

    return line if d == 1 else plane
