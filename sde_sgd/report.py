"""A report people read: one self-contained HTML file of text, tables and figures, without scripts."""

import base64
import json
import math
import numbers
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_LABELS = {"sde_sgd": "sde-sgd", "created_at": "created at", "float_type": "float type", "argv": "command"}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Report:
    """A title, a lead, and sections in the order they are added; `.html()` is the file.

        report = Report("SGD does not sample its loss", "What the potential shows instead.")
        section = report.section("The stationary density")
        section.text("Three ways to the same density, and how far they are apart.")
        section.table(["method", "L1 distance"], [["paths", 2.1e-3]], "Distances to the solved density.")
        section.figure(plot_densities(...), "Solved, simulated, real.", alt="Three maps side by side")
        Path("report.html").write_text(report.html(), encoding="utf-8")

    Every text is shown exactly as given: nothing in it is markup. A blank line starts a new paragraph.
    """

    def __init__(self, title: str, lead: str = ""):
        self.title = _text(title, "the title")
        self.lead = _text(lead, "the lead")
        self.sections: list[Section] = []
        self.headlines: list[dict[str, str]] = []

    def headline(self, value: Any, label: str) -> "Report":
        """A number for the top of the page, with what it is in a few words."""
        self.headlines.append({"value": number(value), "label": _text(label, "the label of a headline")})
        return self

    def section(self, heading: str) -> "Section":
        """A new section at the end of the report."""
        self.sections.append(Section(heading))
        return self.sections[-1]

    def html(self, provenance: Mapping[str, Any] | None = None) -> str:
        """The page. `provenance` (default: that of this process) closes it as a table.

        Its "settings" are a table, or one as JSON text, as `sde_sgd.results.provenance` gives it; or None.
        """
        import jinja2

        from . import results

        facts = dict(results.provenance() if provenance is None else provenance)
        settings = _settings(facts.pop("settings", None))
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
        return template.render(
            title=self.title,
            lead=_paragraphs(self.lead),
            headlines=self.headlines,
            sections=self.sections,
            provenance=[(_LABELS.get(name, name), str(value)) for name, value in facts.items() if value != ""],
            settings=list(_flat(settings)),
        )


class Section:
    """One heading and what stands under it. Each method adds a block and returns the section."""

    def __init__(self, heading: str):
        self.heading = _text(heading, "the heading of a section")
        self.blocks: list[dict[str, Any]] = []

    def text(self, text: str) -> "Section":
        """One paragraph, or several parted by blank lines."""
        return self._add("text", paragraphs=_paragraphs(text))

    def verdict(self, passed: bool, text: str) -> "Section":
        """A sentence marked as holding or as failing, for what a check found."""
        return self._add("verdict", passed=bool(passed), text=_text(text, "a verdict"))

    def link(self, address: str, text: str) -> "Section":
        """A paragraph that leads elsewhere, e.g. to another report by its path from this one's folder."""
        return self._add("link", address=_text(address, "an address"), text=_text(text, "the text of a link"))

    def table(self, columns: Iterable[str], rows: Iterable[Iterable[Any]], caption: str = "") -> "Section":
        """A table. Numbers are set to four digits and aligned right; None is an empty cell.

        Raises ValueError for a row of another length than `columns`, naming the row.
        """
        columns, cells = [_text(name, "the name of a column") for name in _entries(columns, "columns")], []
        for k, row in enumerate(_entries(rows, "rows")):
            row = _entries(row, f"row {k} of the table")
            if len(row) != len(columns):
                raise ValueError(f"row {k} of the table has {len(row)} cells for {len(columns)} columns: {row!r}")
            cells.append([{"text": number(value), "numeric": _is_number(value)} for value in row])
        numeric = [bool(cells) and all(row[k]["numeric"] for row in cells) for k in range(len(columns))]
        return self._add("table", columns=list(zip(columns, numeric)), rows=cells, caption=_text(caption, "a caption"))

    def figure(self, figure: "Figure", caption: str, alt: str, wide: bool | None = None) -> "Section":
        """A matplotlib figure: fields as PNG at 150 dpi, everything else as SVG.

        `alt` says in words what the figure shows, for those who cannot see it. A figure is set across the
        whole page if `wide`, by default if it is wider than the text.
        """
        from . import figures

        if not _text(alt, "the alt text").strip():
            raise ValueError("a figure needs an alt text that says what it shows")
        width, height = figure.get_size_inches()
        if figures.is_field(figure):
            source = _data_address("image/png", figures.png(figure))
        else:
            source = _data_address("image/svg+xml", figures.svg(figure))
        return self._add(
            "figure", source=source, alt=alt, caption=_text(caption, "a caption"), width=round(width * 96),
            height=round(height * 96), wide=width > 7.2 if wide is None else wide,
        )  # fmt: skip

    def formula(self, latex: str, alt: str = "") -> "Section":
        r"""A displayed formula in the part of LaTeX that matplotlib sets, e.g. r"\rho \propto e^{-\Phi/T}".

        Fractions of full height are `\dfrac`. `alt` says it in words. ValueError for what cannot be set.
        """
        from . import figures

        source = _data_address("image/svg+xml", figures.formula(_text(latex, "a formula")))
        return self._add("formula", alt=_text(alt, "the alt text") or latex, source=source)

    def _add(self, kind: str, **content: Any) -> "Section":
        self.blocks.append({"kind": kind, **content})
        return self


def number(value: Any) -> str:
    """A cell's text: numbers to four digits (2.1 × 10⁻⁵ below 10⁻³ and from 10⁴), whole numbers in full, yes/no,
    empty for None, else text.

    >>> [number(v) for v in (3, 0.12345, 2.1e-5, -4e9, float("inf"), True, None, "as it is")]
    ['3', '0.1235', '2.1 × 10⁻⁵', '−4 × 10⁹', '∞', 'yes', '', 'as it is']
    """
    if value is None:
        return ""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        text = f"{value:,}".replace(",", "\u202f") if abs(value) >= 10000 else str(value)
        return text.replace("-", "−")
    if not isinstance(value, numbers.Real):
        return str(value)
    value = float(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    digits, _, exponent = f"{value:.3e}".partition("e")  # the exponent of the rounded number: 9999.6 is 10⁴
    if -3 <= int(exponent) < 4:
        return f"{value:.4g}".replace("-", "−")
    digits = digits.rstrip("0").rstrip(".")
    return f"{digits} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", "−")


def _is_number(value: Any) -> bool:
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in _text(text, "a paragraph").split("\n\n") if part.strip()]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be text, got {value!r}")
    return value


def _entries(value: Any, what: str) -> list:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ValueError(f"{what} must be a sequence of cells, got {value!r}")
    return list(value)


def _settings(given: Any) -> Mapping[str, Any]:
    try:
        settings = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError as fault:
        raise ValueError(f"the settings of a report must be a table or JSON text, got {given!r} ({fault})") from None
    if settings is not None and not isinstance(settings, Mapping):
        raise ValueError(f"the settings of a report must be a table or JSON text, got {given!r}")
    return settings or {}


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
