"""Refuse an allocation that cannot fit, before it is made."""

from __future__ import annotations

import os

import torch


def available_bytes(device: torch.device) -> int:
    """Bytes that can be allocated on ``device`` without swapping, as the system reports them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        # Elsewhere only the total is portable; half of it is the usual share of one program.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def require_memory(needed: int, what: str, remedy: str, device: torch.device) -> None:
    """Raise ValueError where ``needed`` bytes exceed half of what ``device`` has available."""
    available = available_bytes(device)
    if needed > available // 2:
        raise ValueError(
            f"{what} needs about {needed / 2**30:.3g} GiB, more than half of the {available / 2**30:.3g} GiB "
            f"available on {device}: {remedy}"
        )
