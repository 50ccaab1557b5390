"""For processes under libfaketime, which is told to leave the monotonic clock alone: its ``clock_nanosleep``, by which Python
sleeps, then gets its sums wrong."""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
