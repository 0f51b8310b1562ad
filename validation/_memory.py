"""Refuse an allocation that cannot fit on the device it is meant for, before it is made."""

from __future__ import annotations

import torch

from sde_sgd import _memory


def require_memory(needed: int, what: str, remedy: str, device: torch.device) -> None:
    """Raise ValueError where ``needed`` bytes exceed half of what ``device`` has available."""
    if device.type != "cuda":
        return _memory.refuse_beyond(needed, what, remedy)
    available = torch.cuda.mem_get_info(device)[0]
    if needed > available // 2:
        raise ValueError(
            f"{what} needs about {needed / 2**30:.3g} GiB, more than half of the {available / 2**30:.3g} GiB "
            f"available on {device}; {remedy}"
        )
