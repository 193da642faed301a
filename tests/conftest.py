"""What holds for every test."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from support.warm import start_warm

# How long an example takes says more of the machine than of the code.
settings.register_profile(
    "untimed",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("untimed")

# Where pytest runs as several processes (`-n`), all they start has one thread: two processes with
# two threads each on two cores wait for each other most of the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

start_warm()


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> Iterator[None]:
    """Restores the environment after each file: engines and libraries (lm-eval) change it.

    One that Python or a library reads when it is imported would keep `start_warm` from forking for
    all files that follow.
    """
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
