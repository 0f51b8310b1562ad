"""SRA1, constant D: x̂ = x + ¾ h b(x) + (3/2) I₁₀/h, x' = x + h (b(x)/3 + 2 b(x̂)/3) + I₁, with the increments
I₁ = √(2Th) L ξ and I₁₀ = ∫∫dW ds = (h/2) √(2Th) L (ξ + ζ/√3) of one Brownian motion.

With a temperature schedule I₁ and I₁₀ carry the terms of the noise's own change over the step.
"""

import math

from ._model import Model
from ._scheme import Scheme


def _lanes(model: Model) -> list[str]:
    c = model.number
    return [
        *model.evaluate,
        # I₁₀/h in units of the noise: (ξ + ζ/√3)/2
        *model.each(f"m{{i}} = {c(0.5)} * (z{{i}} + {c(1 / math.sqrt(3))} * z{{d+i}})"),
        *model.noise("root", "m", "c"),
        *model.each("k{i} = b{i}"),
        *model.each(f"x{{i}} = x{{i}} + {c(0.75)} * h * b{{i}} + {c(1.5)} * c{{i}}"),
        "T = T_later",
        *model.evaluate,
        "T = T_start",
        *model.each("x{i} = X{i}[j]"),
        *model.each("m{i} = root_end * z{i} + (root - root_end) * m{i}"),
        *model.noise(c(1.0), "m"),
        *model.each(f"y{{i}} = x{{i}} + h * ({c(1 / 3)} * k{{i}} + {c(2 / 3)} * b{{i}}) + n{{i}}"),
    ]


SRA1 = Scheme(
    name="sra1",
    strong_order_additive=1.5,
    weak_order=2.0,
    measure_order=2.0,
    noise=("constant",),
    normals=2,
    drifts=2,
    source="Rößler (2010)",
    lanes=_lanes,
)
