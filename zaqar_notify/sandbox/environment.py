"""Jinja2's sandbox, made smaller still: objects have what their data has and nothing else, and everything is counted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import ChainableUndefined, pass_context
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zaqar_notify.sandbox.bounds import MOST_OUTPUT, STRIDE, Budget, Refused
from zaqar_notify.sandbox.functions import COMPARISONS, EACH, FILTERS, TESTS, each, shown

BUDGET = "_budget"
"""Among the names; those of a template cannot begin like that."""


class _Environment(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        return getattr(obj, attribute) if isinstance(obj, LoopContext) else self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Mapping) if isinstance(argument, str) else type(argument) is int and isinstance(obj, list):
            try:
                return obj[argument]
            except LookupError:
                pass
        return self.undefined()


@functools.cache
def environment(html: bool) -> _Environment:
    made = _Environment(
        autoescape=html, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True, optimized=False, cache_size=0
    )
    made.globals.clear()
    made.filters = _counted({EACH: each, **{name: one.function for name, one in FILTERS.items()}})
    made.tests = _counted({**TESTS, **COMPARISONS})
    # It is handed the context, and so runs with the template and never while that is compiled.
    made.finalize = pass_context(_counting(shown))
    return made


def _counted(functions: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    return {name: pass_context(_counting(function)) for name, function in functions.items()}


def _counting(function: Callable[..., Any]) -> Callable[..., Any]:
    def counted(context: Context, value: Any, *arguments: Any, **options: Any) -> Any:
        budget: Budget = context.parent[BUDGET]
        budget.spend(1 + len(value) // STRIDE if isinstance(value, str) else 1)
        result = function(budget, value, *arguments, **options)
        if isinstance(result, str):
            if len(result) > MOST_OUTPUT:
                raise Refused(f"it makes a value of more than {MOST_OUTPUT} characters")
            budget.spend(len(result) // STRIDE)
        return result

    return counted
