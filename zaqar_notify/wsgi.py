"""For any WSGI server: ``zaqar_notify.wsgi:application``.

Configured by the environment; ``ZAQAR_NOTIFY_CONFIG_FILES`` names configuration files, separated by colons.
"""

from __future__ import annotations

import os

from zaqar_notify import bootstrap

_conf = bootstrap.configure(config_files=[file for file in os.environ.get("ZAQAR_NOTIFY_CONFIG_FILES", "").split(":") if file])
bootstrap.set_up_logging(_conf)
application = bootstrap.build_api(_conf)
