"""What the benchmarks share: facts of the machine, repeated timing, tables in Markdown."""

import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"


def best_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of several runs: what the work takes when nothing else runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_bytes() -> int:
    """The most memory this process has held since its program began.

    Linux hands `ru_maxrss` of a parent on to the program a child starts, hence its own record in /proc.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine(*packages: str) -> str:
    """One sentence: processor, cores, operating system, versions, load at the time."""
    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    load = f"load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else "load unknown"
    return (
        f"Machine: {_processor()}, {cores()} cores, {platform.system()} {platform.machine()}; "
        f"Python {platform.python_version()}, {', '.join(found)}; {load}."
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            facts = dict(line.split(":", 1) for line in lines if ":" in line)
    except OSError:
        return platform.processor() or "unknown processor"
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    widest = next((w for w in ("avx512f", "avx2", "avx", "asimd", "neon") if w in facts.get("flags", "").split()), "")
    model = f" (family {facts['cpu family']}, model {facts['model']})" if "model" in facts else ""
    return f"{facts.get('model name', platform.processor())}{model}{', ' + widest if widest else ''}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns after the first are aligned right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def publish(name: str, text: str, folder: Path = DOCS) -> None:
    """Print the page and write it to docs/benchmarks/."""
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
