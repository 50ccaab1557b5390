"""`zaqar-notify worker`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from typing import NoReturn

from zaqar_notify import bootstrap
from zaqar_notify.commands.configuration import configure

SWITCH_INTERVAL = 0.0003
"""Seconds for which one thread may keep the interpreter's lock while others want it."""


def run(arguments: argparse.Namespace) -> NoReturn:
    conf = configure(arguments)
    bootstrap.set_up_logging(conf)
    worker = bootstrap.build_worker(conf, arguments.schemes)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    # What sends asks for the interpreter's lock at each step of each transfer. At 5 ms, which is usual, it would mostly wait.
    sys.setswitchinterval(SWITCH_INTERVAL)
    worker.start()
    if arguments.ready_fd is not None:
        os.write(arguments.ready_fd, b"ready\n")
        os.close(arguments.ready_fd)
    worker.run()
    # The thread of a plugin that hangs would hold up a normal exit.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
