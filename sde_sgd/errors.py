"""Faults the user can act on, ValueErrors that name the value, what is allowed and what to do; and warnings."""


class Diverged(ValueError):
    """A path left every bound or became NaN; `.path` and `.step` say which and when."""

    path: int
    step: int

    def __init__(self, message: str, *, path: int = -1, step: int = -1):
        super().__init__(message)
        self.path = path
        self.step = step


class TooFewSamples(ValueError):
    """The data cannot support the estimate or its error bar."""


class NotConverged(ValueError):
    """An iteration stopped short of its tolerance; the message holds what it reached and what to change."""


class BoxWarning(UserWarning):
    """The box of a grid cuts a density, its walls deflect a current, or its cells are too coarse for the drift."""
