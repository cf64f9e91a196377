"""Workers shared by the tests of the rewards."""

from collections.abc import Iterator

import pytest

from trl_lambda.rewards import GraderPool


@pytest.fixture(scope="session")
def pool() -> Iterator[GraderPool]:
    """Two workers; a judgement through them never takes the shortcut."""
    with GraderPool(2) as workers:
        yield workers
