"""Agreed between the workers and the pool: how long a grading may take, and an exit code.

Importing this imports nothing, so that a worker whose packages are missing can still say so.
"""

# The exit code of a worker that lacks a package; Python itself ends with 1 or 2.
MISSING_PACKAGE = 3

# A grading may take its timeout in processor time, whatever else the machine is doing. Behind that
# stands a limit on the time of the clock, which only a worker that gets no processor can reach.
MIN_WALL_SECONDS = 120.0
WALL_FACTOR = 20.0


def wall_seconds(timeout: float) -> float:
    """The seconds on the clock after which a grading of this timeout is ended in any case."""
    return max(MIN_WALL_SECONDS, WALL_FACTOR * timeout)
