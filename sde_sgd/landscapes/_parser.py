"""Text → SymPy through a whitelist over Python's syntax tree; nothing is ever evaluated.

`sympy.parse_expr` and `sympify` run arbitrary code found in a string; expressions here may come from a
configuration file, so every node is checked before SymPy sees it.
"""

import ast
import math
from collections.abc import Mapping

import sympy as sp

from sde_sgd._checks import nearest

MAX_LENGTH = 4000  # characters
MAX_NODES = 2000  # nodes of the syntax tree
MAX_DEPTH = 120
MAX_EXPONENT = 32  # of a constant exponent
MAX_DIGITS = 100  # decimal exponent of any constant, written or computed

FUNCTIONS = {
    f.__name__.lower(): f
    for f in (
        sp.exp,
        sp.log,
        sp.sqrt,
        sp.sin,
        sp.cos,
        sp.tan,
        sp.sinh,
        sp.cosh,
        sp.tanh,
        sp.atan,
        sp.erf,
        sp.erfc,
        sp.Abs,
    )
}
CONSTANTS = {"pi": sp.pi}
# What a SymPy expression of the user may contain, derivatives of the above included.
_ALLOWED_HEADS = (
    sp.Add,
    sp.Mul,
    sp.Pow,
    sp.Symbol,
    sp.Number,
    sp.NumberSymbol,
    sp.exp,
    sp.log,
    sp.sin,
    sp.cos,
    sp.tan,
    sp.sinh,
    sp.cosh,
    sp.tanh,
    sp.atan,
    sp.erf,
    sp.erfc,
    sp.Abs,
    sp.sign,
)

_BINARY = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def parse(source, symbols: Mapping[str, sp.Symbol], what: str = "expression") -> sp.Expr:
    """The SymPy expression of a string, a number or a SymPy expression, over the given symbols only.

    Raises ValueError naming the offending part: unknown names, functions outside
    exp log sqrt sin cos tan sinh cosh tanh atan erf erfc abs, constant exponents beyond ±32,
    constants beyond 1e±100 or not finite, text longer than 4000 characters.
    """
    if isinstance(source, str):
        expression = _Reader(source, symbols, what).read()
    elif isinstance(source, sp.Basic):
        expression = _adopt(source, symbols, what)
    elif isinstance(source, int | float) and not isinstance(source, bool):
        expression = _number(source, what, repr(source))
    else:
        raise ValueError(f"{what}: expected a string, a number or a SymPy expression, got {type(source).__name__}")
    if expression.has(sp.zoo, sp.nan, sp.oo, -sp.oo, sp.I):
        raise ValueError(f"{what}: {str(source)[:80]!r} is not a finite real expression")
    return expression


def _unknown(name: str, symbols: Mapping[str, sp.Symbol], what: str) -> ValueError:
    known = [*symbols, *CONSTANTS]
    return ValueError(
        f"{what}: unknown symbol {name!r}{nearest(name, known)}; known: {', '.join(known)}. "
        "Declare it as a variable, data or parameter"
    )


def _number(value, what: str, text: str) -> sp.Expr:
    if not math.isfinite(value) or (value != 0 and not 10.0**-MAX_DIGITS <= abs(value) <= 10.0**MAX_DIGITS):
        raise ValueError(f"{what}: constant {text[:40]} is outside ±1e{MAX_DIGITS}")
    return sp.Integer(value) if isinstance(value, int) else sp.Float(value)


def _bounded_power(base: sp.Expr, exponent: sp.Expr, what: str) -> sp.Expr:
    if exponent.is_number:
        size = abs(float(exponent))
        if not size <= MAX_EXPONENT:
            raise ValueError(f"{what}: exponent {float(exponent):g} is outside ±{MAX_EXPONENT}")
        if base.is_number and base != 0 and size * abs(math.log10(abs(float(base)))) > MAX_DIGITS:
            raise ValueError(f"{what}: a constant power is outside 1e±{MAX_DIGITS}")
        if exponent.is_Float and float(exponent).is_integer():
            exponent = sp.Integer(int(exponent))  # compiled as multiplications, exact for negative bases
    return base**exponent


def _adopt(expression: sp.Basic, symbols: Mapping[str, sp.Symbol], what: str) -> sp.Expr:
    """A user's SymPy expression with its symbols replaced by ours of the same name."""
    if not isinstance(expression, sp.Expr):
        raise ValueError(f"{what}: expected a SymPy expression, got {type(expression).__name__}")
    replacement = {}
    for symbol in expression.free_symbols:
        if symbol.name not in symbols:
            raise _unknown(symbol.name, symbols, what)
        replacement[symbol] = symbols[symbol.name]
    for node in sp.preorder_traversal(expression):
        if not isinstance(node, _ALLOWED_HEADS):
            raise ValueError(
                f"{what}: {type(node).__name__} is not among the functions this package compiles "
                f"({', '.join(FUNCTIONS)})"
            )
    return expression.xreplace(replacement)


class _Reader:
    def __init__(self, text: str, symbols: Mapping[str, sp.Symbol], what: str):
        self.text, self.symbols, self.what = text, symbols, what

    def refuse(self, why: str) -> ValueError:
        return ValueError(f"{self.what}: {why} in {self.text[:80]!r}")

    def read(self) -> sp.Expr:
        if len(self.text) > MAX_LENGTH:
            raise ValueError(f"{self.what}: {len(self.text)} characters, at most {MAX_LENGTH} are read")
        try:
            tree = ast.parse(self.text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self.refuse("not an expression") from None
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise self.refuse(f"more than {MAX_NODES} terms")
        return self.visit(tree.body, 0)

    def visit(self, node: ast.expr, depth: int) -> sp.Expr:
        if depth > MAX_DEPTH:
            raise self.refuse(f"more than {MAX_DEPTH} levels of nesting")
        match node:
            case ast.Constant(value=value) if type(value) in (int, float):
                if isinstance(value, int) and value.bit_length() > 4 * MAX_DIGITS:
                    raise self.refuse("a constant out of range")
                return _number(value, self.what, repr(value))
            case ast.Name(id=name):
                if name in self.symbols:
                    return self.symbols[name]
                if name in CONSTANTS:
                    return CONSTANTS[name]
                raise _unknown(name, self.symbols, self.what)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                value = self.visit(operand, depth + 1)
                return -value if isinstance(node.op, ast.USub) else value
            case ast.BinOp(op=ast.Pow(), left=left, right=right):
                return _bounded_power(self.visit(left, depth + 1), self.visit(right, depth + 1), self.what)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
                result = _BINARY[type(op)](self.visit(left, depth + 1), self.visit(right, depth + 1))
                if result.is_Number and result.is_finite and abs(result) > sp.Integer(10) ** MAX_DIGITS:
                    raise self.refuse("a constant out of range")
                return result
            case ast.BinOp(op=ast.BitXor()):
                raise self.refuse("'^' (powers are written **)")
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](self.visit(argument, depth + 1))
            case ast.Call(func=ast.Name(id=name)):
                raise self.refuse(f"{name}(…) is not a known function of one argument{nearest(name, list(FUNCTIONS))}")
        raise self.refuse(f"{type(node).__name__} is not allowed")
