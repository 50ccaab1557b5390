"""How far a template may go, and what happens when it goes further."""

from __future__ import annotations

MOST_SOURCE = 16384
"""Characters of a template."""
MOST_OUTPUT = 262144
"""Characters that are made of it, and of any value on the way."""
MOST_STEPS = 100_000
"""Steps of one run. One is at most about half a microsecond."""
MOST_NODES = 500
"""Of the syntax tree: what compiling costs."""
MOST_DEPTH = 30
MOST_LOOPS = 4
"""One in the other."""
MOST_ITEMS = 100
"""Of a list of constants."""
MOST_NUMBER = 10**12
MOST_DIGITS = 100
"""Characters of a text that may be a number."""
STRIDE = 64
"""Characters that are worked through in the time of a step."""


class Refused(Exception):
    """A template that may not be used, or went too far, or cannot be made with this data. ``line`` 0: not known."""

    def __init__(self, why: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {why}" if line else why)


class Budget:
    """What is left of the steps and of the output, for one or several runs."""

    __slots__ = ("output", "steps")

    def __init__(self, steps: int = MOST_STEPS, output: int = MOST_OUTPUT) -> None:
        self.steps = steps
        self.output = output

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise Refused("it takes too many steps")

    def write(self, text: str) -> str:
        self.output -= len(text)
        if self.output < 0:
            raise Refused(f"it makes more than {MOST_OUTPUT} characters")
        return text
