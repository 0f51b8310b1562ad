"""Expressions → straight-line scalar code with common subexpressions shared, and functions of arrays.

The text uses canonical names, so that it (and the cached machine code named after it) does not depend on what
the user called things: x0… variables, p0… parameters, a0… data of one sample, T temperature.
"""

from collections.abc import Mapping, Sequence

import sympy as sp
from sympy.printing.lambdarepr import LambdaPrinter
from sympy.printing.pycode import PythonCodePrinter

from ._parser import COMPILED

TEMPERATURE = sp.Symbol("T", positive=True)
MAX_OPERATIONS = 5000  # of a derivative: beyond, SymPy and the compiler take minutes

# Functions of the lane loop: ours vectorise (paths/_lane_math.py, or 32), the rest are scalar C.
_LANE_FUNCTIONS = {
    "exp": "_exp",
    "log": "_log",
    "tanh": "_tanh",
    "sin": "_sin",
    "cos": "_cos",
    "sinh": "_sinh",
    "cosh": "_cosh",
    "tan": "_tan",
    "atan": "math.atan",
    "erf": "math.erf",
    "erfc": "math.erfc",
    "Abs": "math.fabs",
    "sign": "_sign",
}


class _LanePrinter(PythonCodePrinter):
    """Prints a SymPy expression as code for a lane loop in `real`, "float64" or "float32".

    Numba widens float32 with a literal to float64, so that there every constant is a `np.float32`; powers with a
    literal integer and the functions of `math` stay float32 by themselves.
    """

    def __init__(self, real):
        super().__init__({"fully_qualified_modules": False, "user_functions": _LANE_FUNCTIONS})
        self._constant = "{!r}" if real == "float64" else f"np.{real}({{!r}})"

    def _print_Function(self, expr):
        return f"{_LANE_FUNCTIONS[type(expr).__name__]}({self._print(expr.args[0])})"

    _print_exp = _print_log = _print_tanh = _print_sin = _print_cos = _print_sinh = _print_cosh = _print_Function
    _print_tan = _print_atan = _print_erf = _print_erfc = _print_Abs = _print_sign = _print_Function

    def _print_Float(self, expr):
        return self._constant.format(float(expr))

    _print_Integer = _print_Rational = _print_NumberSymbol = _print_Pi = _print_Exp1 = _print_Float

    def _print_Pow(self, expr, rational=False):
        base, exponent = expr.args
        text = f"({self._print(base)})"
        if exponent.is_Integer:
            # A literal integer exponent is expanded by Numba into multiplications.
            if exponent == -1:
                return f"({self._constant.format(1.0)}/{text})"
            return text if exponent == 1 else f"({text}**{int(exponent)})"
        if exponent.is_Rational and exponent.q == 2:
            whole = (exponent.p - 1) // 2
            root = f"math.sqrt{text}"
            return root if whole == 0 else f"({text}**{whole}*{root})"
        if base.is_nonnegative:
            return f"_exp({self._print(exponent)}*_log({text}))"
        return f"math.pow({text}, {self._print(exponent)})"


class _ArrayPrinter(LambdaPrinter):
    """Prints for arrays: `sign` as a function, numbers with all their digits."""

    def _print_Integer(self, expr):
        return str(int(expr)) if abs(int(expr)) < 2**53 else repr(float(expr))

    def _print_sign(self, expr):
        return f"sign({self._print(expr.args[0])})"

    def _print_Float(self, expr):
        return repr(float(expr))


_LANES = {real: _LanePrinter(real) for real in ("float64", "float32")}


def canonical(
    variables: Sequence[sp.Symbol], parameters: Sequence[sp.Symbol] = (), data: Sequence[sp.Symbol] = ()
) -> dict[sp.Symbol, sp.Symbol]:
    """Replacement of the user's symbols by x0…, p0…, a0… (the temperature stays T)."""
    table: dict[sp.Symbol, sp.Symbol] = {}
    for prefix, symbols in (("x", variables), ("p", parameters), ("a", data)):
        table |= {symbol: sp.Symbol(f"{prefix}{i}", real=True) for i, symbol in enumerate(symbols)}
    return table


def derivative(expression: sp.Expr, symbol: sp.Symbol, what: str) -> sp.Expr:
    """∂expression/∂symbol, compilable, a kink of abs() counting as flat; ValueError where it is not or is too large."""
    result = sp.diff(expression, symbol).replace(sp.DiracDelta, lambda *_: sp.Integer(0))
    if result.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
        raise ValueError(f"{what}: its derivative by {symbol} is not finite (0 or ∞ to a power?); simplify it")
    if any(not isinstance(node, COMPILED) for node in sp.preorder_traversal(result)):
        raise ValueError(
            f"{what}: its derivative by {symbol} cannot be compiled (a power of a quantity of either sign inside "
            "abs?); write the expression without it"
        )
    if sp.count_ops(result) > MAX_OPERATIONS:
        raise ValueError(
            f"{what}: its derivative by {symbol} has more than {MAX_OPERATIONS} operations; simplify the "
            "expression, or give drift and diffusion as functions (Process)"
        )
    return result


def _numeric(expression: sp.Expr) -> sp.Expr:
    """Constants such as √2 or 2/√π as numbers; exponents stay exact."""

    def constant(node: sp.Expr) -> bool:
        return node.is_number and not node.is_Rational and not node.is_Float

    return expression.replace(constant, lambda node: sp.Float(node.evalf(20), 20))


def straight_line(
    outputs: Mapping[str, sp.Expr], names: Mapping[sp.Symbol, sp.Symbol], real: str = "float64"
) -> list[str]:
    """Assignments `name = expression`, intermediate results t_0, t_1 … first, as lines of scalar Python.

    `names` comes from `canonical`; `real` is the type of every number, "float64" or "float32".
    """
    expressions = [_numeric(e).xreplace(dict(names)) for e in outputs.values()]
    shared, reduced = sp.cse(expressions, symbols=sp.numbered_symbols("t_", real=True), order="canonical")
    text = _LANES[real].doprint
    lines = [f"{symbol} = {text(value)}" for symbol, value in shared]
    return lines + [f"{name} = {text(value)}" for name, value in zip(outputs, reduced)]


def compile_functions(arguments: Sequence[sp.Symbol], expressions: Sequence[sp.Expr], namespace):
    """A function of the arguments returning the list of expressions, computed with `namespace` (numpy, torch …)."""
    functions = {"Abs": namespace.abs}
    for name in ("exp", "log", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "sign"):
        functions[name] = getattr(namespace, name)
    if namespace.__name__ == "numpy":
        import scipy.special

        functions |= {"erf": scipy.special.erf, "erfc": scipy.special.erfc, "atan": namespace.arctan}
    else:
        functions |= {name: getattr(namespace, name) for name in ("atan", "erf", "erfc")}
    return sp.lambdify(
        list(arguments),
        [_numeric(e) for e in expressions],
        modules=[functions],
        printer=_ArrayPrinter({"fully_qualified_modules": False, "inline": True, "allow_unknown_functions": True}),
        cse=True,
        dummify=True,
    )
