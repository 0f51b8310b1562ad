"""Files that are whole or absent: write beside the target, force to disk, rename."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

_SUFFIX = ".partial"
_DAY = 86400.0
_serial = count()


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a private name beside `path` to write to; on leaving without an exception it becomes `path`.

    A reader sees the old file or the new one, never part of either, even if the machine stops in between.
    Two writers of one path do not meet: each has its own private name, and the last to finish wins.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}-{next(_serial)}"
    partial = path.with_name(f"{path.name}.{owner}{_SUFFIX}")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":  # the new name, too, must survive a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | os.PathLike, content: str) -> None:
    """Write `content` to `path` as UTF-8 with line feeds, whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def sweep_partials(folder: str | os.PathLike) -> list[Path]:
    """Delete what killed writers left in `folder` and below, and return the deleted paths.

    A file whose writer may still be at work stays: on this host that is asked of the process, on another host
    (a shared file system) a file counts as abandoned a day after its last change.
    """
    removed = []
    for partial in Path(folder).rglob(f"*{_SUFFIX}"):
        if _abandoned(partial):
            partial.unlink(missing_ok=True)
            removed.append(partial)
    return removed


def _abandoned(partial: Path) -> bool:
    try:
        old = time.time() - partial.stat().st_mtime > _DAY
    except FileNotFoundError:  # finished meanwhile
        return False
    head, *numbers = partial.name.removesuffix(_SUFFIX).rsplit("-", 3)
    here = head.endswith(f".{socket.gethostname()}") and all(n.isdigit() for n in numbers) and len(numbers) == 3
    if here and os.name == "posix":
        return not _alive(int(numbers[0]))
    return old


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks; on Windows it would interrupt, hence the guard above
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
