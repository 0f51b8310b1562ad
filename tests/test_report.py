"""Reports: one file, no script, every text shown as text, every picture whole."""

import base64
import html.parser
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sde_sgd import figures
from sde_sgd.report import Report, number

HOSTILE = "<script>alert(1)</script>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def page():
    field = xr.DataArray(np.random.default_rng(0).random((12, 10)), dims=("x", "y"),
                         coords={"x": np.arange(12.0), "y": np.arange(10.0)})  # fmt: skip
    report = Report(HOSTILE, f"A lead with {HOSTILE}.\n\nAnd a second paragraph.").headline(2.1e-5, "distance")
    section = report.section(f"Densities {HOSTILE}").text("One.\n\nTwo & three.").verdict(True, f"It holds {HOSTILE}.")
    section.figure(figures.plot_densities({HOSTILE: field, "b": field, "c": field}), "Maps.", alt='Three "maps"')
    section.link('../other "run"/report.html', f"Another page {HOSTILE}")
    section.table(["method", "steps", HOSTILE], [["sgd", 10**6, 0.5], [HOSTILE, 2, None]], "What was measured.")
    lines = report.section("Lines").formula(r"\rho \propto e^{-\Phi/T}", alt="rho")
    lines.figure(figures.plot_density(field.sum("y")).figure, "A marginal.", alt="A line")
    report.section("Last").verdict(False, "It fails.")
    return report.html({"sde_sgd": "0.1.0", "git": "", "settings": json.dumps({"title": HOSTILE, "a": {"b": [1]}})})


class Elements(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.open, self.faults = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.faults += [name for name, _ in attrs if name.startswith("on")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.faults.append(f"</{tag}>")


def test_nothing_runs_and_nothing_is_fetched(page):
    elements = Elements(page)
    assert not elements.faults and not elements.open
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(elements.tags)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert not re.search(r"https?://|url\(|@import", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))


def test_every_text_is_shown_as_text(page):
    assert HOSTILE not in page and page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 10
    assert "Two &amp; three." in page and "Three &#34;maps&#34;" in page


def test_pictures_are_embedded_whole_and_described(page):
    images = Elements(page).images
    kinds = [image["src"].partition(";")[0] for image in images]
    assert kinds == ["data:image/png", "data:image/svg+xml", "data:image/svg+xml"]
    assert all(image["alt"] for image in images)
    for image in images:
        content = base64.b64decode(image["src"].partition(",")[2], validate=True)
        assert content.startswith(b"\x89PNG") or ET.fromstring(content).tag.endswith("svg")


def test_structure(page):
    assert page.count("<section") == 3 and "<nav" in page and 'class="wide"' in page
    assert page.count("✓ holds") == 1 and page.count("✗ fails") == 1
    assert "<b>Figure 2.</b> A marginal." in page and "<b>Table 1.</b> What was measured." in page
    assert "2.1 × 10⁻⁵" in page and "<td>[1]</td>" in page and ">git<" not in page


def test_a_report_says_what_made_it():
    text = Report("Title").html()
    assert "sde-sgd" in text and "created at" in text
    assert "<nav" not in text and 'class="lead"' not in text and "<dl" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.5, "−0.5"), (1e5, "1 × 10⁵"), (123456.0, "1.235 × 10⁵"), (12345, "12\u202f345"),
     (-7, "−7"),
     (12345.6, "1.235 × 10⁴"), (99999.6, "1 × 10⁵"), (9999.6, "1 × 10⁴"), (9999.4, "9999"), (-9999.6, "−1 × 10⁴"),
     (1e4, "1 × 10⁴"), (0.00099996, "0.001"), (0.0009999, "9.999 × 10⁻⁴"), (-0.0, "0"), (999.96, "1000"),
     (np.float64(0.25), "0.25"), (np.int64(3), "3"), (np.bool_(False), "no"), (float("nan"), "not a number"),
     (float("-inf"), "−∞"), (xr.DataArray(2.0), "2"), (1e-300, "1 × 10⁻³⁰⁰"), ("−", "−")],
)  # fmt: skip
def test_numbers_are_set_for_reading(value, text):
    assert number(value) == text


def test_refusals():
    section = Report("Title").section("One")
    with pytest.raises(ValueError, match=r"row 1 .* 1 cells for 2 columns"):
        section.table(["a", "b"], [[1, 2], [1]])
    with pytest.raises(ValueError, match="alt text"):
        section.figure(figures.plot_spectrum({"D": [1.0]}).figure, "caption", alt=" ")
    with pytest.raises(ValueError, match="columns must be"):
        section.table("method", [list("method")])


@pytest.mark.parametrize("latex", [r"\frac{", "a$ b $c", "$", "", " ", "a\\", r"a\\$b"])
def test_a_formula_is_mathematics_or_refused(latex):
    with pytest.raises(ValueError):
        Report("Title").section("One").formula(latex)


def test_a_formula_over_lines_and_a_dollar_to_show():
    assert figures.formula("\\rho =\n e^{-x}") == figures.formula(r"\rho = e^{-x}")
    assert figures.formula(r"5\,\$") != figures.formula(r"5\,")


def test_a_link_leads_where_it_says(page):
    assert '<a href="../other &#34;run&#34;/report.html">Another page &lt;script&gt;' in page


def test_settings_may_be_absent_text_or_a_table():
    for given in (None, "null", {}, "{}"):
        assert "<details" not in Report("Title").html({"settings": given})
    for given in ({"a": {"b": [1]}}, '{"a": {"b": [1]}}'):
        assert "a.b</th><td>[1]</td>" in Report("Title").html({"settings": given})
    for given in ("{", "[1]", 3):
        with pytest.raises(ValueError, match="settings of a report"):
            Report("Title").html({"settings": given})


def test_columns_and_rows_may_be_generated():
    section = Report("Title").section("One").table((c for c in "ab"), (iter((k, 2 * k)) for k in range(2)))
    assert section.blocks[0]["columns"] == [("a", True), ("b", True)] and len(section.blocks[0]["rows"]) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda report, section: section.text(None),
        lambda report, section: section.verdict(True, None),
        lambda report, section: section.formula(None),
        lambda report, section: section.table([1, 2], [[1, 2]]),
        lambda report, section: section.table(["a"], [[1]], None),
        lambda report, section: section.table(["a"], [None]),
        lambda report, section: section.table(None, []),
        lambda report, section: section.figure(None, "caption", None),
        lambda report, section: report.section(None),
        lambda report, section: report.headline(1, None),
        lambda report, section: Report(None),
        lambda report, section: Report("Title", None),
    ],
)
def test_what_is_no_text_is_refused_where_it_is_given(call):
    report = Report("Title")
    with pytest.raises(ValueError, match="must be"):
        call(report, report.section("One"))


# In a real browser, driven over a pair of pipes ------------------------------------------------------------


class Browser:
    """The DevTools protocol over two pipes: JSON messages ended by NUL."""

    def __init__(self, profile):
        (child_in, self._out), (self._in, child_out) = os.pipe(), os.pipe()
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--remote-debugging-pipe", "--proxy-server=127.0.0.1:9",
        ]  # fmt: skip
        # The browser listens on descriptor 3 and answers on 4.
        place = (
            f"import os, sys; from fcntl import F_DUPFD, fcntl; a, b = (fcntl(f, F_DUPFD, 9) for f in "
            f"({child_in}, {child_out})); os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", place, BROWSER, *flags, f"--user-data-dir={profile}"],
            pass_fds=(child_in, child_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(child_in)
        os.close(child_out)
        self._numbers, self._rest, self.events = itertools.count(1), b"", []

    def call(self, method, session=None, **params):
        message = {"id": next(self._numbers), "method": method, "params": params}
        os.write(self._out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        return self._read(lambda answer: answer.get("id") == message["id"])["result"]

    def wait(self, event):
        return next((e for e in self.events if e["method"] == event), None) or self._read(
            lambda answer: answer.get("method") == event
        )

    def _read(self, wanted, patience=60.0):
        deadline = time.monotonic() + patience
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                answer = json.loads(line)
                if "method" in answer:
                    self.events.append(answer)
                if wanted(answer):
                    return answer
            if not select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            content = os.read(self._in, 1 << 20)
            if not content:
                raise ConnectionError("the browser has ended")
            self._rest += content

    def close(self):
        os.close(self._out)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)


@contextmanager
def opened(page, folder):
    file = folder / "report.html"
    file.write_text(page, encoding="utf-8")
    browser = Browser(folder / "profile")
    try:
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            browser.call(f"{domain}.enable", session)
        browser.events.clear()
        browser.call("Page.navigate", session, url=file.as_uri())
        browser.wait("Page.loadEventFired")

        def ask(expression):
            answer = browser.call("Runtime.evaluate", session, expression=expression, returnByValue=True)
            return answer["result"]["value"]

        yield ask, browser.events
    finally:
        browser.close()


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_in_a_browser(page, tmp_path):
    with opened(page, tmp_path) as (ask, events):
        assert ask("document.title") == HOSTILE and ask("document.querySelector('h1').textContent") == HOSTILE
        assert ask("document.scripts.length") == 0
        sizes = ask("[...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])")
        assert len(sizes) == 3 and all(done and natural > 20 and shown > 20 for done, natural, shown in sizes)
        assert ask("document.querySelectorAll('main tbody tr').length") == 2
        assert ask("document.documentElement.scrollWidth <= innerWidth")  # only tables scroll sideways
        kinds = {event["method"] for event in events}
        assert not kinds & {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown",
                            "Page.javascriptDialogOpening"}  # fmt: skip
        asked = {e["params"]["request"]["url"].partition(":")[0] for e in events
                 if e["method"] == "Network.requestWillBeSent"}  # fmt: skip
        assert asked <= {"file", "data"} and "file" in asked


@pytest.mark.evidence
@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_report_of_the_demo_in_a_browser(tmp_path):
    """The newest finished demo of this folder: every figure shows, nothing is logged, nothing is fetched."""
    reports = sorted(Path("runs").glob("demo-*/report.html"), key=lambda file: file.stat().st_mtime)
    if not reports:
        pytest.skip("no finished demo here: make demo")
    with opened(reports[-1].read_text("utf-8"), tmp_path) as (ask, events):
        sizes = ask("[...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth])")
        assert len(sizes) >= 12 and all(done and natural > 20 and shown > 20 for done, natural, shown in sizes)
        assert ask("document.scripts.length") == 0
        assert ask("document.documentElement.scrollWidth <= innerWidth")
        kinds = {event["method"] for event in events}
        assert not kinds & {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert {url.partition(":")[0] for url in urls} <= {"file", "data"}


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_browser_test_sees_faults(page, tmp_path):
    planted = (
        '<img src="http://127.0.0.1:9/a.png"><img src="data:image/png;base64,AAAA">'
        "<script>document.title = 'ran'</script>"
    )
    bad = page.replace("<main>", "<main>" + planted)
    with opened(bad, tmp_path) as (ask, events):
        assert ask("document.title") == HOSTILE  # the policy keeps the script from running
        assert ask("[...document.images].filter(i => i.naturalWidth == 0).length") == 2
        assert any(event["method"] == "Log.entryAdded" for event in events)
