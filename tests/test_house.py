"""The rules of the house. Each checker is also shown a small bad source, which it must report."""

import ast
import builtins
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "sde_sgd": ROOT / "sde_sgd",
    "sde_sgd.theory": ROOT / "theory",
    "sde_sgd.validation": ROOT / "validation",
}
WINGS = ("sde_sgd.theory", "sde_sgd.validation")
MAY_USE = {"sde_sgd": (), "sde_sgd.theory": ("sde_sgd",), "sde_sgd.validation": ("sde_sgd",)}
LONGEST = 400
ALL_SOURCES = [(part, path) for part, folder in PARTS.items() for path in sorted(folder.rglob("*.py"))]


def each_source(test):
    identify = lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else ""  # noqa: E731
    return pytest.mark.parametrize(("part", "path"), ALL_SOURCES, ids=identify)(test)


# Imports --------------------------------------------------------------------------------------------------


def part_of(module):
    return next((p for p in (*WINGS, "sde_sgd") if module == p or module.startswith(p + ".")), None)


def import_faults(source, part):
    """Imports, at any depth, that a file of `part` must not have."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > 1:  # a relative import stays inside its own folder
                faults.append(f"line {node.lineno}: a relative import with {node.level} dots")
            used = {node.module or ""} | {f"{node.module}.{a.name}" if node.module else a.name for a in node.names}
            if part == "sde_sgd" and used & {"theory", "validation"}:
                faults.append(f"line {node.lineno}: the core imports a wing")
            continue
        if isinstance(node, ast.ImportFrom):
            names = {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif (
            isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__")
        ):  # fmt: skip
            names = {str(node.args[0].value)}
        else:
            continue
        for name in sorted(names):
            top = name.partition(".")[0]
            if top in ("theory", "validation"):
                faults.append(f"line {node.lineno}: bare import of {top}")
            elif top in ("torch", "torchsde") and part != "sde_sgd.validation":
                faults.append(f"line {node.lineno}: {part} imports {top}")
            elif part_of(name) not in (None, part, *MAY_USE[part]):
                faults.append(f"line {node.lineno}: {part} imports {part_of(name)}")
    return faults


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("sde_sgd", "import torch"),
        ("sde_sgd", "def f():\n    from torch.nn import Linear"),
        ("sde_sgd", "import importlib\nimportlib.import_module('torch')"),
        ("sde_sgd", "from sde_sgd.theory.claims import check"),
        ("sde_sgd", "from sde_sgd import validation"),
        ("sde_sgd", "from . import theory"),
        ("sde_sgd", "from ...a import b"),
        ("sde_sgd.theory", "import sde_sgd.validation.spectrum"),
        ("sde_sgd.theory", "import torchsde"),
        ("sde_sgd", "from ..grid import Grid"),
        ("sde_sgd.validation", "from sde_sgd.theory import check"),
        ("sde_sgd.validation", "import theory"),
    ],
)
def test_a_forbidden_import_is_reported(part, source):
    assert len(import_faults(source, part)) >= 1


@pytest.mark.parametrize(
    ("part", "source"),
    [("sde_sgd", "from ._checks import positive\nimport numpy"),
     ("sde_sgd.theory", "from sde_sgd.grid import Grid\nfrom .claims import check"),
     ("sde_sgd.validation", "import torch\nfrom sde_sgd.validation.noise import GradientNoise")],
)  # fmt: skip
def test_an_allowed_import_is_not_reported(part, source):
    assert import_faults(source, part) == []


# Numba kernels --------------------------------------------------------------------------------------------

_OPEN_MODULES = {"np", "numpy", "math", "cmath", "numba", "nb"}


def _jit_options(node):
    """The keyword names and values of a jit decorator or call, or None if `node` is not one."""
    call = node if isinstance(node, ast.Call) else None
    function = call.func if call else node
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name not in ("jit", "njit", "vectorize", "guvectorize", "generated_jit"):
        return None
    return {k.arg: k.value for k in call.keywords} if call else {}


def _on(options, name):
    value = options.get(name)
    return value is not None and not (isinstance(value, ast.Constant) and value.value is False)


def kernel_faults(source):
    """Calls in jitted code that the cache of this file cannot watch, and parallel kernels."""
    tree = ast.parse(source)
    jitted = {
        node: options for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
        for options in map(_jit_options, node.decorator_list) if options is not None
    }  # fmt: skip
    faults = [
        f"line {node.lineno}: parallel" for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _on(_jit_options(node) or {}, "parallel")
    ]  # fmt: skip
    if not any(_on(options, "cache") or None in options for options in jitted.values()):
        return faults
    # A cached kernel may reach any other jitted function of its file, so all of them are held to the rule.
    own = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    own |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    for kernel in jitted:
        inner = {n.name for n in ast.walk(kernel) if isinstance(n, ast.FunctionDef)}
        local = {n.id for n in ast.walk(kernel) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        local |= {a.arg for a in ast.walk(kernel.args) if isinstance(a, ast.arg)}
        for call in (n for line in kernel.body for n in ast.walk(line) if isinstance(n, ast.Call)):
            target = call.func
            if isinstance(target, ast.Name):
                known = target.id in own | inner or (hasattr(builtins, target.id) and target.id not in local)
                known = known or target.id == "prange"
            else:
                while isinstance(target, ast.Attribute):
                    target = target.value
                known = not isinstance(target, ast.Name) or target.id in _OPEN_MODULES | local
            if not known:
                faults.append(f"line {call.lineno}: {kernel.name} calls {ast.unparse(call.func)}")
    return faults


@pytest.mark.parametrize(
    "source",
    [
        "from .a import step\n@njit(cache=True)\ndef f(x):\n    return step(x)",
        "from . import a\n@numba.njit(cache=True, nogil=True)\ndef f(x):\n    return a.step(x)",
        "from .a import step\n@njit\ndef g(x):\n    return step(x)\n@njit(cache=True)\ndef f(x): return g(x)",
        "@njit(**OPTIONS)\ndef f(drift, x):\n    return drift(x)",
        "@njit(parallel=True)\ndef f(x):\n    return x",
        "f = njit(g, parallel=PARALLEL)",
    ],
)
def test_a_kernel_that_could_go_stale_is_reported(source):
    assert len(kernel_faults(source)) == 1


def test_a_sound_kernel_is_not_reported():
    source = """
from .a import step
@njit(cache=True, parallel=False)
def f(x):
    total = np.zeros(3)
    total.fill(0.0)
    return g(x) + math.exp(float(total.sum())) + np.linalg.norm(x)
@njit(cache=True)
def g(x): return abs(x)
def outside(x): return step(f(x))
"""
    assert kernel_faults(source) == []


# What is never evaluated, and how long a file may be --------------------------------------------------------


def evaluation_faults(source):
    """Calls that run or unpickle what they read."""
    faults = []
    for call in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        whole = ast.unparse(call.func)
        options = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        forbidden = (
            whole in ("eval", "builtins.eval", "exec", "builtins.exec")
            or name in ("parse_expr", "Unpickler", "read_pickle")
            or whole in ("pickle.load", "pickle.loads", "cloudpickle.load", "joblib.load", "marshal.loads")
            or options.get("allow_pickle") is True
            or options.get("weights_only") is False
            or (whole == "torch.load" and "weights_only" not in options)
            or (name == "sympify" and call.args and not isinstance(call.args[0], (ast.List, ast.Tuple)) and (
                isinstance(call.args[0], (ast.JoinedStr, ast.BinOp))
                or (isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str))))
        )  # fmt: skip
        if forbidden:
            faults.append(f"line {call.lineno}: {ast.unparse(call)}")
    return faults


@pytest.mark.parametrize(
    "source",
    ["eval('1')", "exec(code)", "sympy.parse_expr(s)", "sympify('x')", "sympify(f'{x}')", "pickle.load(f)",
     "np.load(p, allow_pickle=True)", "torch.load(p, weights_only=False)", "torch.load(p)"],
)  # fmt: skip
def test_evaluation_is_reported(source):
    assert len(evaluation_faults(source)) == 1


def test_plain_calls_are_not_reported():
    assert evaluation_faults("model.eval()\nsympify(1)\ntorch.load(p, weights_only=True)\nast.literal_eval(s)") == []


# All of them, file by file ------------------------------------------------------------------------------------


@each_source
def test_a_source_keeps_the_rules(part, path):
    text = path.read_text("utf-8")
    assert import_faults(text, part) == []  # layers
    assert kernel_faults(text) == []  # cached kernels call only their own file
    assert evaluation_faults(text) == []
    assert text.count("\n") <= LONGEST
