"""Refuse, before anything is allocated, what would not fit into memory."""

import os

_SHARE = 0.5  # of what is available: the rest is left to the caller's arrays and to other programs


def available_bytes() -> int:
    """Memory that can be allocated now without swapping, in bytes."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    # not Linux: only the total is known, and half of it is the usual share of one program
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def refuse_beyond(needed: float, what: str, remedy: str) -> None:
    """Raise ValueError where `what` needs more bytes than half of those available, with the `remedy`."""
    available = available_bytes()
    if needed > _SHARE * available:
        raise ValueError(
            f"{what} needs about {needed / 2**30:.3g} GiB, more than half of the {available / 2**30:.3g} GiB of "
            f"memory available; {remedy}"
        )
