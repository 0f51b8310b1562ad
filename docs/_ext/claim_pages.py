"""A page for every published claim, and their index, made by running the claims; kept until a source changes."""

import hashlib
import os
import shutil
from pathlib import Path

_TITLES = {"fails": "Fails as stated", "needs_hypothesis": "Needs a further hypothesis", "holds": "Holds"}


def setup(app):
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app):
    folder = Path(app.srcdir) / "claims"
    stamp = _stamp(Path(app.srcdir).parent)
    if (folder / "stamp").is_file() and (folder / "stamp").read_text("utf-8") == stamp:
        return
    from sde_sgd.theory import CLAIMS, TOPICS, Level, check
    from sde_sgd.theory.explain import page, write_figures

    shutil.rmtree(folder, ignore_errors=True)
    verdicts = {v.claim: v for v in check(jobs=os.cpu_count() or 1)}
    for name, claim in CLAIMS.items():
        figures = write_figures(claim, verdicts[name], Level(), folder)
        (folder / f"{name}.md").write_text(page(claim, verdicts[name], figures), "utf-8")
    (folder / "index.md").write_text(_index(CLAIMS, TOPICS), "utf-8")
    (folder / "stamp").write_text(stamp, "utf-8")


def _index(claims, topics) -> str:
    lines = ["# The claims", "", f"{len(claims)} statements, each with its verdict; {{doc}}`../theory` says how.", ""]
    for state, title in _TITLES.items():
        members = [c for c in claims.values() if c.as_stated == state]
        lines += [f"## {title} ({len(members)})", "", *map(_line, members), ""]
    lines += ["## By topic", ""]
    for topic, members in topics.items():
        lines += [f"**{topic.replace('_', ' ').capitalize()}**: " + ", ".join(map(_link, members)), ""]
    lines += ["## By source", ""]
    sources: dict[str, list[str]] = {}
    for name, claim in claims.items():
        for source in claim.source.split("; "):
            sources.setdefault(source.split(",")[0], []).append(name)
    for source in sorted(sources):
        lines += [f"**{source}**: " + ", ".join(map(_link, sources[source])), ""]
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", *claims, "```", ""])


def _line(claim) -> str:
    return f"- {_link(claim.name)}: {claim.statement} *({claim.source})* What holds: {claim.holds}."


def _link(name: str) -> str:
    return f"[{name.replace('_', ' ')}]({name}.md)"


def _stamp(root: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for folder in ("sde_sgd", "theory", "docs/_ext"):
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
