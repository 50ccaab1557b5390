"""Which templates are let through, by their syntax tree, and where in it the steps are counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from jinja2 import TemplateSyntaxError, nodes

from zaqar_notify.sandbox.bounds import (
    MOST_DEPTH,
    MOST_ITEMS,
    MOST_LOOPS,
    MOST_NODES,
    MOST_NUMBER,
    MOST_SOURCE,
    Refused,
)
from zaqar_notify.sandbox.environment import environment
from zaqar_notify.sandbox.functions import EACH, FILTERS, ITEMS, TESTS, Filter, is_number


def checked(source: str, names: Mapping[str, Collection[str] | None]) -> nodes.Template:
    """The syntax tree. Raises `Refused`."""
    if len(source) > MOST_SOURCE:
        raise Refused(f"it has more than {MOST_SOURCE} characters")
    try:
        tree = environment(False).parse(source)
        source.encode()
    except TemplateSyntaxError as error:
        raise Refused(f"{error.message or 'it is no template'}"[:200].rstrip("."), error.lineno) from None
    except UnicodeEncodeError:
        raise Refused("it is not valid Unicode text") from None
    except RecursionError:
        raise Refused("it is nested too deeply") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise Refused("it holds what is no value") from error
    _Look(names).template(tree)
    return tree


class _Scope(NamedTuple):
    """Where in a template: the variables of all loops around, and of the innermost one."""

    variables: frozenset[str] = frozenset()
    innermost: frozenset[str] | None = None
    loops: int = 0


_REFUSED: Mapping[str, str] = {
    "Add": "+",
    "Assign": "set",
    "AssignBlock": "set",
    "Block": "block",
    "Call": "a call",
    "CallBlock": "call",
    "Concat": "~",
    "Dict": "an object",
    "Div": "/",
    "Extends": "extends",
    "FilterBlock": "filter around a block",
    "FloorDiv": "//",
    "FromImport": "import",
    "Import": "import",
    "Include": "include",
    "Macro": "macro",
    "Mod": "%",
    "Mul": "*",
    "Pos": "+",
    "Pow": "**",
    "Slice": "a part of a list",
    "Sub": "-",
    "With": "with",
}
"""What Jinja2 has, and is not to be had here."""


OF_LOOPS = ("index", "index0", "first", "last", "length")


class _Look:
    """Walks through a syntax tree. What has no method of its name here is refused."""

    def __init__(self, names: Mapping[str, Collection[str] | None]) -> None:
        self._names = names
        self._nodes = 0
        self._depth = 0

    def template(self, tree: nodes.Template) -> None:
        self._all(tree.body, _Scope())

    def _all(self, found: Sequence[nodes.Node], scope: _Scope) -> None:
        for node in found:
            self._look(node, scope)

    def _look(self, node: nodes.Node, scope: _Scope) -> None:
        name = type(node).__name__
        self._nodes += 1
        self._depth += 1
        if self._depth > MOST_DEPTH:
            self._refuse(node, "it is nested too deeply")
        if self._nodes > MOST_NODES:
            self._refuse(node, f"it has more than {MOST_NODES} parts")
        method: Callable[[Any, _Scope], None] | None = getattr(self, f"_look_{name.lower()}", None)
        if method is None:
            self._refuse(node, f"{_REFUSED.get(name, name.lower())} cannot be used")
        method(node, scope)
        self._depth -= 1

    def _refuse(self, node: nodes.Node, why: str) -> NoReturn:
        raise Refused(why, node.lineno or 0)

    # Statements:

    def _look_output(self, node: nodes.Output, scope: _Scope) -> None:
        self._all(node.nodes, scope)

    def _look_templatedata(self, node: nodes.TemplateData, scope: _Scope) -> None:
        """Text."""

    def _look_if(self, node: nodes.If, scope: _Scope) -> None:
        self._look(node.test, scope)
        self._all([*node.body, *node.elif_, *node.else_], scope)

    def _look_for(self, node: nodes.For, scope: _Scope) -> None:
        if node.recursive:
            self._refuse(node, "recursive cannot be used")
        if scope.loops >= MOST_LOOPS:
            self._refuse(node, f"more than {MOST_LOOPS} loops stand in one another")
        iterated, pairs = _iterated(node)
        self._look_through(iterated, scope)
        inner = self._inside(node.target, pairs, scope)
        if node.test is not None:
            self._look(node.test, inner._replace(loops=scope.loops))
        self._all(node.body, inner)
        self._all(node.else_, scope)

    def _look_through(self, iterated: Any, scope: _Scope) -> None:
        """It has to be a part of the data, and within a loop a part of what that is at: then all loops together take no more
        steps than the data has parts."""
        root: Any = iterated
        while isinstance(root, nodes.Getattr | nodes.Getitem):
            root = root.node
        if not isinstance(root, nodes.Name):
            self._refuse(iterated, "a loop has to go through a name or a field of one")
        if scope.innermost is not None and root.name not in scope.innermost:
            variables = " or ".join(sorted(scope.innermost))
            self._refuse(iterated, f"a loop within a loop has to go through something of {variables}")
        self._look(iterated, scope)

    def _inside(self, target: Any, pairs: bool, scope: _Scope) -> _Scope:
        targets = target.items if isinstance(target, nodes.Tuple) else [target]
        found = [one.name for one in targets if isinstance(one, nodes.Name)]
        if len(found) != len(targets) or len(found) != (2 if pairs else 1) or len(set(found)) < len(found):
            self._refuse(target, "a loop has one variable, and two where it goes through items of an object (|items)")
        for name in found:
            if name.startswith("_") or name in self._names or name == "loop" or name in scope.variables:
                self._refuse(target, f"{name[:64]} cannot be the variable of a loop here")
        return _Scope(scope.variables | set(found), frozenset(found), scope.loops + 1)

    # Expressions:

    def _look_const(self, node: nodes.Const, scope: _Scope) -> None:
        value = node.value
        if isinstance(value, int | float) and not abs(value) <= MOST_NUMBER:
            self._refuse(node, "the number is too large")
        if isinstance(value, str) and not _is_storable(value):
            self._refuse(node, "it is not valid Unicode text")

    def _look_list(self, node: nodes.List | nodes.Tuple, scope: _Scope) -> None:
        if len(node.items) > MOST_ITEMS or not all(isinstance(item, nodes.Const) for item in node.items):
            self._refuse(node, f"a list may hold constants only, at most {MOST_ITEMS}")
        self._all(node.items, scope)

    _look_tuple = _look_list

    def _look_name(self, node: nodes.Name, scope: _Scope) -> None:
        if node.name in scope.variables:
            return
        if node.name in self._names or (node.name == "loop" and scope.loops):
            if self._names.get(node.name, ()) is not None:
                self._refuse(
                    node, f"{node.name} needs the name of a field behind it, as in {node.name}.{self._example(node.name)}"
                )
            return
        known = ", ".join(sorted([*self._names, *scope.variables]))
        self._refuse(node, f"there is no {node.name[:64]}; there is {known}")

    def _look_getattr(self, node: nodes.Getattr, scope: _Scope) -> None:
        self._look_field(node, node.attr, scope)

    def _look_getitem(self, node: nodes.Getitem, scope: _Scope) -> None:
        self._look_field(node, node.arg.value if isinstance(node.arg, nodes.Const) else None, scope)
        self._look(node.arg, scope)

    def _look_field(self, node: nodes.Getattr | nodes.Getitem, field: Any, scope: _Scope) -> None:
        """``field`` None: it is not known yet."""
        if isinstance(field, str) and field.startswith("__"):
            self._refuse(node, f"{field[:64]} cannot be used")
        if not isinstance(node.node, nodes.Name | nodes.Getattr | nodes.Getitem | nodes.Filter):
            self._refuse(node, "only names, and what has names, have fields")
        if isinstance(node.node, nodes.Name) and node.node.name not in scope.variables:
            fields = self._fields(node.node.name, scope)
            if fields is not None:
                if field not in fields:
                    self._refuse(node, f"{node.node.name} has no {str(field)[:64]}; it has {', '.join(sorted(fields))}")
                return
        self._look(node.node, scope)

    def _fields(self, name: str, scope: _Scope) -> Collection[str] | None:
        if name == "loop" and scope.loops:
            return OF_LOOPS
        return self._names.get(name)

    def _example(self, name: str) -> str:
        return next(iter(self._names.get(name) or OF_LOOPS))

    def _look_condexpr(self, node: nodes.CondExpr, scope: _Scope) -> None:
        self._all([node.test, node.expr1, *([node.expr2] if node.expr2 is not None else [])], scope)

    def _look_and(self, node: nodes.And | nodes.Or, scope: _Scope) -> None:
        self._all([node.left, node.right], scope)

    _look_or = _look_and

    def _look_not(self, node: nodes.Not, scope: _Scope) -> None:
        self._look(node.node, scope)

    def _look_neg(self, node: nodes.Neg, scope: _Scope) -> None:
        if not isinstance(node.node, nodes.Const) or not is_number(node.node.value):
            self._refuse(node, "- cannot be used")
        self._look(node.node, scope)

    def _look_compare(self, node: nodes.Compare, scope: _Scope) -> None:
        if len(node.ops) != 1:
            self._refuse(node, "only two values can be compared at a time")
        self._all([node.expr, node.ops[0].expr], scope)

    def _look_test(self, node: nodes.Test, scope: _Scope) -> None:
        if node.name not in TESTS:
            self._refuse(node, f"there is no test {node.name[:64]}; there is {', '.join(TESTS)}")
        if node.args or node.kwargs or node.dyn_args or node.dyn_kwargs:
            self._refuse(node, f"the test {node.name} takes nothing")
        self._look(node.node, scope)

    def _look_filter(self, node: nodes.Filter, scope: _Scope) -> None:
        known = FILTERS.get(node.name)
        if known is None or node.node is None:
            also = ", and items behind what a loop goes through" if node.name == ITEMS else ""
            self._refuse(node, f"there is no filter {node.name[:64]} here; there is {', '.join(FILTERS)}{also}")
        for name, value in self._arguments(node, known):
            self._look(value, scope)
            self._look_argument(node, name, value, known)
        self._look(node.node, scope)

    def _arguments(self, node: nodes.Filter, known: Filter) -> list[tuple[str, Any]]:
        keywords: Sequence[Any] = node.kwargs  # Jinja2 has the wrong type for them
        named = [(one.key, one.value) for one in keywords]
        given = [*zip(known.parameters, node.args, strict=False), *named]
        names = {name for name, _ in given}
        too_many = len(node.args) > len(known.parameters) or len(names) < len(given)
        if too_many or not names <= set(known.parameters) or node.dyn_args or node.dyn_kwargs:
            takes = ", ".join(known.parameters) or "nothing"
            self._refuse(node, f"the filter {node.name} takes {takes}")
        missing = [name for name in list(known.parameters)[: known.required] if name not in names]
        if missing:
            self._refuse(node, f"the filter {node.name} needs {', '.join(missing)}")
        return given

    def _look_argument(self, node: nodes.Filter, name: str, value: Any, known: Filter) -> None:
        is_right = known.parameters[name]
        if is_right is None:
            return
        if isinstance(value, nodes.Neg) and is_right is is_number:
            return
        if not isinstance(value, nodes.Const) or not is_right(value.value):
            self._refuse(node, f"{name} of the filter {node.name} has to be a constant within its bounds")


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# -- what is counted ----------------------------------------------------------------------------------------------------------


def count(tree: nodes.Template, made: Any) -> None:
    """Puts what counts the steps into a tree that was looked at: comparisons and loops become calls of ours."""
    for parent in list(_walk(tree)):
        for name, value in list(parent.iter_fields()):
            if isinstance(value, list):
                setattr(parent, name, [_replaced(one) for one in value])
            else:
                setattr(parent, name, _replaced(value))
    tree.set_environment(made)


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    """A node behind all that is in it."""
    for child in node.iter_child_nodes():
        yield from _walk(child)
    yield node


def _replaced(value: Any) -> Any:
    if isinstance(value, nodes.Compare):
        operand = value.ops[0]
        return nodes.Test(value.expr, f"_{operand.op}", [operand.expr], [], None, None, lineno=value.lineno)
    if isinstance(value, nodes.For):
        iterated, pairs = _iterated(value)
        arguments: list[nodes.Expr] = [nodes.Const(pairs), nodes.Const(sum(1 for _ in _walk(value)))]
        value.iter = nodes.Filter(iterated, EACH, arguments, [], None, None, lineno=value.lineno)
    return value


def _iterated(loop: nodes.For) -> tuple[Any, bool]:
    """What a loop goes through, and whether it is the pairs of it."""
    found: Any = loop.iter
    if isinstance(found, nodes.Filter) and found.name == ITEMS and found.node is not None and not found.args:
        return found.node, True
    return found, False
