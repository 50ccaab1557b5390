"""`zaqar-notify receive`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from typing import NoReturn

from zaqar_notify import bootstrap
from zaqar_notify.commands.configuration import configure


def run(arguments: argparse.Namespace) -> NoReturn:
    conf = configure(arguments)
    bootstrap.set_up_logging(conf)
    receiver = bootstrap.build_receiver(conf)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: receiver.stop())
    receiver.start()
    if arguments.ready_fd is not None:
        os.write(arguments.ready_fd, b"ready\n")
        os.close(arguments.ready_fd)
    receiver.run()
    # A session that did not end in time would hold up a normal exit.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
