"""Which scheme fits a process, and why; combinations that cannot be right are refused in a sentence."""

from sde_sgd import _checks
from sde_sgd.process import Process, Underdamped

from ._milstein import diagonal_derivatives
from ._scheme import Scheme
from ._schemes import SCHEMES


def choose(
    process: Process, name: str, real: str, substeps: int = 1, end_points: bool = False
) -> tuple[Scheme, str, tuple[str, ...]]:
    """The scheme, the reason, and the lines of dD_ii/dx_i that `milstein` needs for D that is not constant.

    `end_points`: walls or exits ask for steps between points of one path, not only for the law at each time.
    """
    _checks.choice("scheme", name, ["auto", *SCHEMES])
    underdamped = isinstance(process, Underdamped)
    constant = process.landscape.constant_diffusion() is not None
    if name == "auto":
        name, reason = _best(process, underdamped, constant, end_points)
    else:
        reason = "as asked"
    scheme = SCHEMES[name]
    if underdamped != scheme.underdamped:
        raise ValueError(
            f"scheme {name!r} is for {'underdamped' if scheme.underdamped else 'overdamped'} processes and this one is "
            f"{'underdamped' if underdamped else 'not'}; take {'baoab' if underdamped else 'another'}"
        )
    if not constant and "general" not in scheme.noise and "diagonal" not in scheme.noise:
        raise ValueError(
            f"scheme {name!r} needs a constant diffusion matrix, and that of {process.landscape.name} depends on "
            "the point; take euler_maruyama, or milstein where D is diagonal"
        )
    extra: tuple[str, ...] = ()
    if name == "milstein" and not constant:
        found = diagonal_derivatives(process.landscape, real)
        if found is None:
            raise ValueError(
                f"scheme 'milstein' needs D in closed form, diagonal, with D_ii a function of x_i alone (else Lévy "
                f"areas enter); that of {process.landscape.name} is not; take euler_maruyama"
            )
        extra = found
    if substeps > 1 and scheme.increments != "normal":
        raise ValueError(
            f"scheme {name!r} has {scheme.increments.replace('_', '-')} increments, whose sum over {substeps} "
            "substeps is another law; take substeps=1 or a scheme with normal increments"
        )
    return scheme, reason, extra


def _best(process: Process, underdamped: bool, constant: bool, end_points: bool) -> tuple[str, str]:
    if underdamped:
        return "baoab", "auto: baoab, the process is underdamped; second order in the steady density for constant D"
    if not constant:
        return "euler_maruyama", "auto: euler_maruyama, which takes a diffusion matrix that depends on the point"
    if process.equilibrium_potential is None:
        why = "constant D but no known equilibrium: second order in the steady density for any drift"
    elif end_points:
        why = "constant D, and walls and exits need steps between points of one path"
    else:
        return (
            "leimkuhler_matthews",
            "auto: leimkuhler_matthews, drift −D∇Φ with constant D is reversible: second order in the steady density "
            "at the cost of Euler–Maruyama",
        )
    return "stochastic_heun", f"auto: stochastic_heun, {why}"
