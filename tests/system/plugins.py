"""Plugins as a service finds them: packages in a directory on its path."""

from __future__ import annotations

import pathlib
import tempfile
import unittest
from collections.abc import Mapping


class Plugins:
    """``environment`` is what the service has to be started with."""

    def __init__(self, test: unittest.TestCase) -> None:
        directory = tempfile.TemporaryDirectory(prefix="zaqar-notify-")
        test.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.environment = {"PYTHONPATH": directory.name}

    def install(self, package: str, source: str, schemes: Mapping[str, str]) -> None:
        """A package of one module with this source, and the classes that serve these schemes."""
        module = package.replace("-", "_")
        (self.directory / f"{module}.py").write_text(source)
        information = self.directory / f"{module}-1.0.dist-info"
        information.mkdir()
        lines = [f"{scheme} = {module}:{cls}" for scheme, cls in schemes.items()]
        (information / "entry_points.txt").write_text("\n".join(["[zaqar_notify.notifiers]", *lines, ""]))
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
