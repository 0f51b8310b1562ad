"""Tables generated from what the package declares: the landscapes, the schemes, the evidence at hand."""

import inspect
import re

import numpy as np
from docutils import nodes
from sphinx.util.docutils import SphinxDirective


def setup(app):
    app.add_directive("landscape-table", LandscapeTable)
    app.add_directive("scheme-table", SchemeTable)
    app.add_directive("evidence-pages", EvidencePages)
    return {"parallel_read_safe": True}


class LandscapeTable(SphinxDirective):
    """One row per landscape: name, parameters and default temperature; formula and text; what is known exactly."""

    def run(self):
        from sde_sgd import landscapes

        rows = []
        for name in landscapes.catalogue():
            landscape = landscapes.get(name)
            latex = {part: upright(text, landscape) for part, text in landscape.latex().items()}
            finite = "sample_loss" in latex
            formula = rf"f_k = {latex['sample_loss']}" if finite else f"f = {latex['loss']}"
            settings = [f"{k} = {v:g}" for k, v in landscape.parameters.items()]
            left = [
                nodes.paragraph("", "", nodes.literal("", name)),
                nodes.paragraph("", "variables " + ", ".join(landscape.variables)),
            ]
            if finite:
                left.append(nodes.paragraph("", f"{landscape.samples} samples"))
            if settings:
                left.append(nodes.paragraph("", "; ".join(settings)))
            if landscape.default_temperature is not None:
                left.append(nodes.paragraph("", f"T = {landscape.default_temperature:g}"))
            right = [math_block(self, formula)]
            if "circulation" in latex:
                right.append(math_block(self, rf"b = -\nabla f + {latex['circulation']}"))
            first, *more = landscapes.describe(name).split("\n\n")
            right += [paragraph(text) for text in (first, *more)]
            rows.append([left, right, [paragraph(fact) for fact in exact_facts(landscape)]])
        return [table(("landscape", "definition", "known exactly"), rows, (20, 62, 18))]


def exact_facts(landscape) -> list[str]:
    """What the landscape has in closed form, by asking it: Φ, j, q at points of its domain, and fixed points."""
    temperature = landscape.default_temperature
    low, high = landscape.domain.lower, landscape.domain.upper
    points = low + (high - low) * np.array([[0.37], [0.55], [0.61]])
    facts = []
    potential = landscape.potential(points, temperature)
    if potential is not None:
        same = np.allclose(np.diff(potential), np.diff(landscape.loss(points)), rtol=1e-12)
        facts.append("Φ = f" if same else "Φ")
        j = np.abs(landscape.remainder(points, temperature)).max()
        facts.append("j" if j > 1e-9 * np.abs(landscape.drift(points, temperature)).max() else "j = 0")
    q = landscape.q(points, temperature)
    if q is not None:
        facts.append(f"q = {q[0]:.4g}" if np.ptp(q) == 0 else "q")
    known = landscape.known_fixed_points(temperature)
    if known is not None:
        shown = [", ".join(f"{value + 0:.4g}" for value in point) for point in known]
        facts.append("b = 0 at " + ", ".join(shown if landscape.dim == 1 else [f"({text})" for text in shown]))
    return [fact.replace("-", "−") for fact in facts] or ["–"]


class SchemeTable(SphinxDirective):
    """One row per scheme, one column per declared fact; then what the schemes' modules say of themselves."""

    COLUMNS = (
        ("strong order", 7, lambda s: _order(s.strong_order)),
        ("additive noise", 8, lambda s: _order(s.strong_order_additive)),
        ("weak order", 7, lambda s: _order(s.weak_order)),
        ("steady density", 8, lambda s: _order(s.measure_order)),
        ("holds for", 14, lambda s: s.condition),
        ("D", 12, lambda s: ", ".join(s.noise)),
        ("per step", 13, lambda s: _per_step(s)),
        ("source", 19, lambda s: s.source),
    )

    def run(self):
        from sde_sgd.paths import SCHEMES

        rows = []
        for scheme in SCHEMES.values():
            cells = [[paragraph(text(scheme))] for _, _, text in self.COLUMNS]
            rows.append([[nodes.paragraph("", "", nodes.literal("", scheme.name))], *cells])
        titles, widths, _ = zip(*self.COLUMNS)
        modules = dict.fromkeys(inspect.getmodule(scheme.lanes) for scheme in SCHEMES.values())
        about = [paragraph(inspect.getdoc(module).split("\n\n")[0]) for module in modules]
        return [table(("scheme", *titles), rows, (12, *widths)), *about]


def _per_step(scheme) -> str:
    """Random numbers per variable, and evaluations of the drift."""
    drifts = f"{scheme.drifts} drift{'s' if scheme.drifts > 1 else ''}"
    return f"{scheme.normals} {scheme.increments.replace('_', '-')}, {drifts}"


def _order(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def upright(latex: str, landscape) -> str:
    """Names of several letters set as words, not as products of letters."""
    names = [*landscape.variables, *landscape.parameters, *getattr(landscape, "data", ())]
    latex = latex.replace("\\\\", "\\\\ ")  # the end of a matrix's row, apart from the name after it
    for name in names:
        if len(name) > 1 and "_" not in name:
            latex = re.sub(rf"(?<![\\A-Za-z]){name}(?![A-Za-z])", rf"\\mathrm{{{name}}}", latex)
    return latex


class EvidencePages(SphinxDirective):
    """A table of contents of docs/evidence, or a sentence while there is nothing in it."""

    def run(self):
        self.env.note_reread()
        if not any(name.startswith("evidence/") for name in self.env.found_docs):
            return [paragraph("Nothing has been measured here yet.")]
        return self.parse_text_to_nodes("```{toctree}\n:glob:\n:maxdepth: 1\n\nevidence/*\n```")


def paragraph(text: str) -> nodes.paragraph:
    """Plain text in which `names` are code."""
    parts = re.split(r"`+([^`]+)`+", " ".join(text.split()))
    children = [nodes.literal("", part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts)]
    return nodes.paragraph("", "", *children)


def math_block(directive: SphinxDirective, latex: str) -> nodes.math_block:
    node = nodes.math_block(latex, latex, nowrap=False, number=None, label=None)
    node["docname"] = directive.env.docname
    return node


def table(columns, rows, widths=None) -> nodes.table:
    widths = widths or [100 // len(columns)] * len(columns)
    group = nodes.tgroup(cols=len(columns))
    group += [nodes.colspec(colwidth=width) for width in widths]
    head = nodes.row("", *(nodes.entry("", nodes.paragraph("", title)) for title in columns))
    group += nodes.thead("", head)
    group += nodes.tbody("", *(nodes.row("", *(nodes.entry("", *cell) for cell in row)) for row in rows))
    return nodes.table("", group, classes=["colwidths-given"])
