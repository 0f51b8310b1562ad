"""Docstrings of this package are plain text with numpydoc headings; this turns them into reStructuredText.

Nothing in them is markup but `names` in backticks, roles, and `>>>` examples: |x|, x* and f_k mean themselves.
"""

import re

_CODE = re.compile(r"(:[\w:]+:`[^`]+`|``[^`]+``|`[^`]+`)")
_HEADINGS = ("Parameters", "Returns", "Yields", "Raises", "Notes", "References", "Examples", "Attributes")


def setup(app):
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}


def _process(app, what, name, obj, options, lines):
    lines[:] = convert(lines)


def convert(lines: list[str]) -> list[str]:
    """reStructuredText of a docstring's lines (dedented)."""
    result, heading, k = [], "", 0
    while k < len(lines):
        line = lines[k]
        if not line.strip():
            k += 1
        elif k + 1 < len(lines) and line.strip() in _HEADINGS and set(lines[k + 1].strip()) == {"-"}:
            heading = line.strip()
            result += [f".. rubric:: {heading}", ""]
            k += 2
        elif line.lstrip().startswith(">>>"):
            block, k = _block(lines, k, lambda text: bool(text.strip()))
            result += [*block, ""]
        elif line.startswith((" ", "\t")):
            block, k = _block(lines, k, lambda text: not text.strip() or text.startswith(" "))
            result += ["::", "", *(f"    {text}".rstrip() for text in block), ""]
        elif heading in ("Parameters", "Returns", "Yields", "Raises", "Attributes") and _is_item(lines, k):
            block, k = _block(lines, k + 1, lambda text: text.startswith(" "))
            result += [*_item(line, block), ""]
        else:
            block, k = _block(lines, k, lambda text: bool(text.strip()) and not text.startswith(" "))
            result += [_inline(" ".join(block)), ""]
    return result


def _block(lines, k, belongs):
    start = k
    while k < len(lines) and belongs(lines[k]):
        k += 1
    return lines[start:k], k


def _is_item(lines, k) -> bool:
    """`name : what it is`, or any line with an indented explanation below."""
    indented = k + 1 < len(lines) and lines[k + 1].startswith(" ")
    return indented or bool(re.match(r"[\w, *]+ : ", lines[k]))


def _item(head: str, below: list[str]) -> list[str]:
    name, colon, text = head.partition(" : ")
    rest = [line.strip() for line in below]
    if any(re.search(r"\S {3,}\S", line) for line in below):  # a table of names and meanings
        return [_inline(head), "", "::", "", *(f"    {line}" for line in below), ""]
    title = f"**{_escape(name)}**" + (f" : {_inline(text)}" if colon else "")
    if not rest:
        return [f"- {title}"]
    new_sentence = not colon or (rest[0][:1].isupper() and not text.rstrip().endswith((",", "–", "(")))
    if new_sentence and not text.rstrip().endswith("."):
        return [f"- {title}", "", f"  {_inline(' '.join(rest))}"]
    return [f"- **{_escape(name)}** : {_inline(' '.join([text, *rest]))}"]


def _inline(text: str) -> str:
    """Escape everything that is not code or a role; single backticks are code."""
    parts = _CODE.split(text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = _escape(part)
        elif part.startswith("`") and not part.startswith("``"):
            parts[i] = f"`{part}`"
        if i % 2 and i + 1 < len(parts) and parts[i + 1][:1].isalnum():
            parts[i] += "\\ "  # inline code must end at a boundary
    return "".join(parts)


def _escape(text: str) -> str:
    return re.sub(r"([\\*|`])|(?<=\w)(_)(?!\w)", lambda found: "\\" + found[0], text)
