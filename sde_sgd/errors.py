"""Faults the user can act on. All are ValueErrors: name the value, what is allowed, what to do."""


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
