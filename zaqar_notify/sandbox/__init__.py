"""What of Jinja2 a stranger's template may use, and how far it may go.

A template is parsed and looked at before it is compiled. What is let through can call nothing, keeps nothing, and loops over
parts of its data only, so that its steps are bounded by the size of the data; and all steps are counted, with what each costs,
so that a template that asks for more than its share ends the same way each time, however fast the machine is.

Jinja2 is loaded with the first template.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from zaqar_notify.sandbox.bounds import MOST_OUTPUT, MOST_SOURCE, MOST_STEPS, Budget, Refused

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ("MOST_OUTPUT", "MOST_SOURCE", "MOST_STEPS", "Budget", "Refused", "Sandbox")

_MOST_COMPILED = 256


class Sandbox:
    """``names`` are those that a template may use, each with its fields, or None for data of which nobody knows what it has."""

    def __init__(self, names: Mapping[str, Collection[str] | None]) -> None:
        self._names = names
        self._compiled: collections.OrderedDict[tuple[str, bool], Template | str] = collections.OrderedDict()
        """By source and whether it makes HTML; or why not."""
        self._lock = threading.Lock()

    def check(self, source: str) -> None:
        """Raises `Refused`."""
        from zaqar_notify.sandbox import syntax

        syntax.checked(source, self._names)

    def run(self, source: str, data: Mapping[str, Any], budget: Budget, *, html: bool = False) -> str:
        """Raises `Refused`, for this data or for any. ``html``: values are escaped."""
        from zaqar_notify.sandbox.environment import BUDGET

        template = self._template(source, html)
        context = template.new_context({**data, BUDGET: budget})
        try:
            made = "".join(map(budget.write, template.root_render_func(context)))
        except Refused:
            raise
        except Exception as error:
            raise Refused(f"it cannot be made with this message ({type(error).__name__})") from error
        return made.encode("utf-8", "replace").decode()

    def _template(self, source: str, html: bool) -> Template:
        key = source, html
        with self._lock:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
        if found is None:
            found = self._compile(source, html)
            with self._lock:
                self._compiled[key] = found
                if len(self._compiled) > _MOST_COMPILED:
                    self._compiled.popitem(last=False)
        if isinstance(found, str):
            raise Refused(found)
        return found

    def _compile(self, source: str, html: bool) -> Template | str:
        from zaqar_notify.sandbox import syntax
        from zaqar_notify.sandbox.environment import environment

        try:
            tree = syntax.checked(source, self._names)
        except Refused as refused:
            return str(refused)
        made = environment(html)
        syntax.count(tree, made)
        try:
            return made.template_class.from_code(made, made.compile(tree), {})
        except (SyntaxError, RecursionError, MemoryError) as error:  # what is let through stays below all limits of Python
            return f"it cannot be compiled ({type(error).__name__})"
