"""Expressions → straight-line scalar code with common subexpressions shared.

The text uses canonical names, so that it (and the cached machine code named after it) does not depend on what
the user called things: x0… variables, p0… parameters, a0… data of one sample, T temperature.
"""

from collections.abc import Mapping, Sequence

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

TEMPERATURE = sp.Symbol("T", positive=True)

# Functions of the lane loop: ours vectorise (paths/_lane_math.py), the rest are scalar calls of the C library.
_LANE_FUNCTIONS = {
    "exp": "_exp",
    "log": "_log",
    "tanh": "_tanh",
    "sin": "_sin",
    "cos": "_cos",
    "sinh": "_sinh",
    "cosh": "_cosh",
    "tan": "_tan",
    "sqrt": "math.sqrt",
    "atan": "math.atan",
    "erf": "math.erf",
    "erfc": "math.erfc",
    "Abs": "math.fabs",
    "sign": "_sign",
}


class _LanePrinter(PythonCodePrinter):
    """Prints a SymPy expression as float64 code for a lane loop."""

    def __init__(self):
        super().__init__({"fully_qualified_modules": False, "user_functions": _LANE_FUNCTIONS})

    def _print_Function(self, expr):
        return f"{_LANE_FUNCTIONS[type(expr).__name__]}({self._print(expr.args[0])})"

    _print_exp = _print_log = _print_tanh = _print_sin = _print_cos = _print_sinh = _print_cosh = _print_Function
    _print_tan = _print_atan = _print_erf = _print_erfc = _print_Abs = _print_sign = _print_Function

    def _print_Integer(self, expr):
        return f"{float(expr)!r}"

    def _print_Float(self, expr):
        return repr(float(expr))

    def _print_Rational(self, expr):
        return repr(float(expr))

    def _print_NumberSymbol(self, expr):
        return repr(float(expr))

    _print_Pi = _print_NumberSymbol
    _print_Exp1 = _print_NumberSymbol

    def _print_Pow(self, expr, rational=False):
        base, exponent = expr.args
        text = f"({self._print(base)})"
        if exponent.is_Integer:
            # A literal integer exponent is expanded by Numba into multiplications.
            return text if exponent == 1 else (f"(1.0/{text})" if exponent == -1 else f"({text}**{int(exponent)})")
        if exponent.is_Rational and exponent.q == 2:
            whole = (exponent.p - 1) // 2
            root = f"math.sqrt{text}"
            return root if whole == 0 else f"({text}**{whole}*{root})"
        return f"_exp({self._print(exponent)}*_log({text}))"


_PRINTER = _LanePrinter()


def canonical(
    variables: Sequence[sp.Symbol], parameters: Sequence[sp.Symbol] = (), data: Sequence[sp.Symbol] = ()
) -> dict[sp.Symbol, sp.Symbol]:
    """Replacement of the user's symbols by x0…, p0…, a0… (the temperature stays T)."""
    table: dict[sp.Symbol, sp.Symbol] = {}
    for prefix, symbols in (("x", variables), ("p", parameters), ("a", data)):
        table |= {symbol: sp.Symbol(f"{prefix}{i}", real=True) for i, symbol in enumerate(symbols)}
    return table


def straight_line(outputs: Mapping[str, sp.Expr], names: Mapping[sp.Symbol, sp.Symbol], prefix: str = "t") -> list[str]:
    """Assignments `name = expression`, intermediate results first, as lines of scalar Python.

    `names` comes from `canonical`; `prefix` keeps the intermediates of two fragments apart.
    """
    expressions = [sp.sympify(e).xreplace(dict(names)) for e in outputs.values()]
    shared, reduced = sp.cse(expressions, symbols=sp.numbered_symbols(f"{prefix}_"), order="canonical")
    lines = [f"{symbol} = {_PRINTER.doprint(value)}" for symbol, value in shared]
    return lines + [f"{name} = {_PRINTER.doprint(value)}" for name, value in zip(outputs, reduced)]


def compile_functions(arguments: Sequence[sp.Symbol], expressions: Sequence[sp.Expr], namespace):
    """A function of the arguments returning the list of expressions, computed with `namespace` (numpy, torch …)."""
    functions = {"Abs": namespace.abs}
    for name in ("exp", "log", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "sign"):
        functions[name] = getattr(namespace, name)
    for name in ("atan", "erf", "erfc"):
        if hasattr(namespace, name):
            functions[name] = getattr(namespace, name)
    if namespace.__name__ == "numpy":
        import scipy.special

        functions |= {"erf": scipy.special.erf, "erfc": scipy.special.erfc, "atan": namespace.arctan}
    return sp.lambdify(list(arguments), list(expressions), modules=[functions], cse=True, dummify=True)
