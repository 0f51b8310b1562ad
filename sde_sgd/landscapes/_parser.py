"""Text → SymPy through a whitelist over Python's syntax tree; nothing is ever evaluated.

`sympy.parse_expr` and `sympify` run arbitrary code found in a string; expressions here may come from a
configuration file, so every node is checked before SymPy sees it.
"""

import ast
import contextlib
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sympy as sp

from sde_sgd._checks import nearest

MAX_LENGTH = 4000  # characters
MAX_NODES = 2000  # nodes of the syntax tree
MAX_DEPTH = 60
MAX_EXPONENT = 32  # of a constant exponent, accumulated ones included
MAX_DIGITS = 100  # decimal exponent of any constant, written or computed

FUNCTIONS = {
    f.__name__.lower(): f
    for f in (
        *(sp.exp, sp.log, sp.sqrt, sp.sin, sp.cos, sp.tan, sp.sinh, sp.cosh, sp.tanh),
        *(sp.atan, sp.erf, sp.erfc, sp.Abs),
    )
}
CONSTANTS = {"pi": sp.pi}
# What compiled code may contain: the functions above and their derivatives.
COMPILED = (
    *(sp.Add, sp.Mul, sp.Pow, sp.Symbol, sp.Number, sp.NumberSymbol, sp.exp, sp.log, sp.sin, sp.cos, sp.tan),
    *(sp.sinh, sp.cosh, sp.tanh, sp.atan, sp.erf, sp.erfc, sp.Abs, sp.sign),
)

_BINARY = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def normal_name(name: str) -> str:
    """The form in which Python's own parser reads a name, so that µ and μ are one."""
    return unicodedata.normalize("NFKC", name)


def parse(source: Any, symbols: Mapping[str, sp.Symbol], what: str = "expression") -> sp.Expr:
    """The SymPy expression of a string, a number or a SymPy expression, over the given symbols only.

    Raises ValueError naming the offending part: unknown names, functions outside
    exp log sqrt sin cos tan sinh cosh tanh atan erf erfc abs, constant exponents beyond ±32,
    constants beyond 1e±100 or not real and finite, text longer than 4000 characters.
    """
    with _named_faults(source, what):
        if isinstance(source, str):
            expression = _Reader(source, symbols, what).read()
        elif isinstance(source, sp.Basic):
            expression = _adopt(source, symbols, what)
        elif isinstance(source, int | float) and not isinstance(source, bool):
            expression = _number(source, what)
        else:
            raise ValueError(f"{what}: expected a string, a number or a SymPy expression, got {type(source).__name__}")
        _check_result(expression, what)
    return expression


class Condition(NamedTuple):
    """Inequalities φ_k > 0 (φ_k ≥ 0 where not strict) joined by and, or. A negation is pushed down into them."""

    levels: tuple[sp.Expr, ...]
    strict: tuple[bool, ...]
    tree: Any  # the index of an inequality, or ("and" | "or", tree, tree, …)


def parse_condition(text: str, symbols: Mapping[str, sp.Symbol], what: str = "condition") -> Condition:
    """The inequalities of a string such as "-1 < x < 1 and not y > 0", over the given symbols only.

    < <= > >= between expressions that `parse` reads, joined by and, or, not, or by & | ~ with each inequality in
    parentheses. Raises ValueError as `parse` does, and for == and !=, or where nothing is compared.
    """
    with _named_faults(text, what):
        condition = _ConditionReader(text, symbols, what).read_condition()
        for level in condition.levels:
            _check_result(level, what)
    return condition


@contextlib.contextmanager
def _named_faults(source: Any, what: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, OverflowError, RecursionError, MemoryError, ZeroDivisionError):
        shown = repr(source)[:80] if isinstance(source, str) else type(source).__name__
        raise ValueError(f"{what}: {shown} is not a finite real expression") from None


def _unknown(name: str, symbols: Mapping[str, sp.Symbol], what: str) -> ValueError:
    known = [*symbols, *CONSTANTS]
    return ValueError(
        f"{what}: unknown symbol {name!r}{nearest(name, known)}; known: {', '.join(known)}. "
        "Declare it as a variable, data or parameter"
    )


def _in_range(value: sp.Expr) -> bool:
    """A real number, zero or within 1e±100, decided without printing or expanding it."""
    if value.is_zero:
        return True
    if value.is_Integer:
        return int(value).bit_length() <= 4 * MAX_DIGITS
    size = abs(value).evalf(15)
    return bool(
        value.is_extended_real
        and size.is_Float
        and (size == 0 or sp.Float(10) ** -MAX_DIGITS <= size <= sp.Float(10) ** MAX_DIGITS)
    )


def _check_result(expression: sp.Expr, what: str) -> None:
    """What SymPy made of the source: finite, real, within bounds, and of functions that can be compiled."""
    if expression.has(sp.zoo, sp.nan, sp.oo, -sp.oo, sp.I):
        raise ValueError(f"{what}: it is not a finite real expression")
    for node in sp.postorder_traversal(expression):  # inner constants first: the sine of a huge one takes for ever
        if not isinstance(node, COMPILED):
            raise ValueError(
                f"{what}: SymPy simplifies it to an expression with {type(node).__name__}, which is not among the "
                f"functions this package compiles ({', '.join(FUNCTIONS)}); write it another way"
            )
        if node.is_number and not _in_range(node):
            raise ValueError(f"{what}: a constant in it is not real, or outside 1e±{MAX_DIGITS}")
        if node.is_Pow and node.exp.is_number and abs(node.exp.evalf(15)) > MAX_EXPONENT:
            raise ValueError(f"{what}: an exponent in it is outside ±{MAX_EXPONENT}")


def _number(value: float, what: str) -> sp.Expr:
    if isinstance(value, int):
        if value.bit_length() > 4 * MAX_DIGITS:
            raise ValueError(f"{what}: a constant of {value.bit_length()} bits is outside 1e±{MAX_DIGITS}")
        return sp.Integer(value)
    if not math.isfinite(value) or (value != 0 and not 10.0**-MAX_DIGITS <= abs(value) <= 10.0**MAX_DIGITS):
        raise ValueError(f"{what}: constant {value!r} is outside 1e±{MAX_DIGITS}")
    return sp.Float(value)


def _bounded_power(base: sp.Expr, exponent: sp.Expr, what: str) -> sp.Expr:
    """base**exponent, refused before SymPy multiplies out a large constant."""
    if exponent.is_number:
        if not _in_range(exponent):
            raise ValueError(f"{what}: an exponent is not a real number")
        inner = base.as_base_exp()[1]
        size = abs(float(exponent)) * max(1.0, abs(float(inner)) if inner.is_number else 1.0)
        if not size <= MAX_EXPONENT:
            raise ValueError(f"{what}: exponent {size:g} is outside ±{MAX_EXPONENT}")
        factor = base if base.is_number else base.as_coeff_Mul()[0]
        if factor != 0 and abs(float(exponent)) * abs(float(sp.log(abs(factor), 10))) > MAX_DIGITS:
            raise ValueError(f"{what}: a constant power is outside 1e±{MAX_DIGITS}")
    return base ** _plain_exponent(exponent)


def _plain_exponent(exponent: sp.Expr) -> sp.Expr:
    """2.0 as 2 and 0.5 as ½: compiled as multiplications, exact for negative bases, and square roots."""
    if exponent.is_Float and (2 * float(exponent)).is_integer():
        return sp.Rational(int(2 * float(exponent)), 2)
    return exponent


def _adopt(expression: sp.Basic, symbols: Mapping[str, sp.Symbol], what: str) -> sp.Expr:
    """A user's SymPy expression with its symbols replaced by ours of the same name."""
    if not isinstance(expression, sp.Expr):
        raise ValueError(f"{what}: expected a SymPy expression, got {type(expression).__name__}")
    replacement = {}
    for symbol in expression.free_symbols:
        name = normal_name(str(symbol))
        if name not in symbols:
            raise _unknown(name, symbols, what)
        replacement[symbol] = symbols[name]
    allowed = [head for head in COMPILED if head is not sp.sign]  # sign has no derivative we could compile
    for node in sp.preorder_traversal(expression):
        if not isinstance(node, tuple(allowed)):
            raise ValueError(
                f"{what}: {type(node).__name__} is not among the functions this package compiles "
                f"({', '.join(FUNCTIONS)})"
            )
    adopted = expression.xreplace(replacement)
    return adopted.replace(sp.Pow, lambda base, exponent: base ** _plain_exponent(exponent))


class _Reader:
    kind = "an expression"

    def __init__(self, text: str, symbols: Mapping[str, sp.Symbol], what: str):
        self.text, self.symbols, self.what = text, symbols, what

    def refuse(self, why: str) -> ValueError:
        return ValueError(f"{self.what}: {why} in {self.text[:80]!r}")

    def read(self) -> sp.Expr:
        return self.visit(self.tree(), 0)

    def tree(self) -> ast.expr:
        """The syntax tree of the text, of bounded length."""
        if len(self.text) > MAX_LENGTH:
            raise ValueError(f"{self.what}: {len(self.text)} characters, at most {MAX_LENGTH} are read")
        try:
            tree = ast.parse(self.text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self.refuse(f"not {self.kind}") from None
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise self.refuse(f"more than {MAX_NODES} terms")
        return tree.body

    def visit(self, node: ast.expr, depth: int) -> sp.Expr:
        # A chain a + b + … or a * b * … is left-nested: its length is bounded by MAX_NODES, not by the depth.
        deeper = (
            depth if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult) else depth + 1
        )
        if deeper > MAX_DEPTH:
            raise self.refuse(f"more than {MAX_DEPTH} levels of nesting")
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return _number(value, self.what)
            case ast.Name(id=name):
                if name in self.symbols:
                    return self.symbols[name]
                if name in CONSTANTS:
                    return CONSTANTS[name]
                raise _unknown(name, self.symbols, self.what)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                value = self.visit(operand, deeper)
                return -value if isinstance(node.op, ast.USub) else value
            case ast.BinOp(op=ast.Pow(), left=left, right=right):
                return _bounded_power(self.visit(left, deeper), self.visit(right, deeper), self.what)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
                result = _BINARY[type(op)](self.visit(left, deeper), self.visit(right, deeper))
                if result.is_number and not _in_range(result):
                    raise self.refuse("a constant out of range")
                return result
            case ast.BinOp(op=ast.BitXor()):
                raise self.refuse("'^' (powers are written **)")
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                result = FUNCTIONS[name](self.visit(argument, deeper))
                if result.is_number and not _in_range(result):  # before a function of it takes for ever
                    raise self.refuse("a constant that is not real, or out of range")
                return result
            case ast.Call(func=ast.Name(id=name)):
                raise self.refuse(f"{name}(…) is not a known function of one argument{nearest(name, list(FUNCTIONS))}")
        raise self.refuse(f"{type(node).__name__} is not allowed")


_WORDS = {ast.BitAnd: ("&", "and"), ast.BitOr: ("|", "or"), ast.Invert: ("~", "not")}  # which bind less tightly


class _ConditionReader(_Reader):
    kind = "a condition (inequalities joined by and, or, not)"

    def read_condition(self) -> Condition:
        self.found: list[tuple[sp.Expr, bool]] = []
        joined = self.condition(self.tree(), 0, False)
        return Condition(tuple(level for level, _ in self.found), tuple(strict for _, strict in self.found), joined)

    def condition(self, node: ast.expr, depth: int, negated: bool) -> Any:
        deeper = depth if isinstance(node, ast.BinOp) else depth + 1  # a & b & … is left-nested, as a + b + …
        if deeper > MAX_DEPTH:
            raise self.refuse(f"more than {MAX_DEPTH} levels of nesting")
        match node:
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return self.condition(operand, deeper, not negated)
            case ast.BoolOp() | ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                values = node.values if isinstance(node, ast.BoolOp) else [node.left, node.right]
                both = isinstance(node.op, ast.And | ast.BitAnd) != negated
                return _join(both, [self.condition(value, deeper, negated) for value in values])
            case ast.Compare(left=left, ops=operators, comparators=others):
                sides = [self.visit(side, deeper) for side in (left, *others)]
                return _join(not negated, [self.inequality(*p, negated) for p in zip(operators, sides, sides[1:])])
        self.visit(node, depth)  # names what is wrong in it, if anything else is
        raise self.refuse(f"{ast.unparse(node)[:60]!r} is compared with nothing (write an inequality, … > 0 say)")

    def inequality(self, operator: ast.cmpop, left: sp.Expr, right: sp.Expr, negated: bool) -> int:
        if not isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            raise self.refuse("a comparison other than < <= > >= (a set where two sides are equal has no volume)")
        above = isinstance(operator, ast.Gt | ast.GtE) != negated
        strict = isinstance(operator, ast.Lt | ast.Gt) != negated
        self.found.append((left - right if above else right - left, strict))
        return len(self.found) - 1

    def visit(self, node: ast.expr, depth: int) -> sp.Expr:
        if (operator := type(getattr(node, "op", None))) in _WORDS:
            sign, word = _WORDS[operator]
            raise self.refuse(f"{sign!r} binds tighter than < (put inequalities in parentheses, or write {word!r})")
        if isinstance(node, ast.Compare | ast.BoolOp) or operator is ast.Not:
            raise self.refuse("an inequality stands where a number is expected (join inequalities by and, or, not)")
        return super().visit(node, depth)


def _join(both: bool, parts: Sequence) -> Any:
    """The parts joined by "and" (both) or "or"; joints of the same word are merged."""
    word = "and" if both else "or"
    flat = [t for part in parts for t in (part[1:] if isinstance(part, tuple) and part[0] == word else [part])]
    return flat[0] if len(flat) == 1 else (word, *flat)
