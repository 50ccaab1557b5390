"""Templates of strangers: what they can do, and that they can do nothing else."""

import itertools
import random
import subprocess
import sys
import textwrap
import unittest
from typing import Any

from zaqar_notify.sandbox import MOST_OUTPUT, MOST_SOURCE, Budget, Refused, Sandbox

NAMES = {"body": None, "message": ("id", "queue"), "links": ("unsubscribe",)}
SANDBOX = Sandbox(NAMES)
BODY: dict[str, Any] = {
    "name": "Ann",
    "page": "<b>&",
    "count": 3,
    "price": 12.345,
    "yes": True,
    "none": None,
    "list": ["a", "b", "c"],
    "rows": [{"name": "x", "tags": ["t", "u"]}, {"name": "y", "tags": []}],
    "map": {"one": 1, "two": "2"},
    "items": "its own",
    "_private": "a field like any other",
}


def run(source: str, body: Any = BODY, *, html: bool = False, budget: Budget | None = None) -> str:
    data = {"body": body, "message": {"id": "m1", "queue": "q"}, "links": {"unsubscribe": "https://n.example/u"}}
    return SANDBOX.run(source, data, budget or Budget(), html=html)


class WhatTemplatesCanDo(unittest.TestCase):
    def test_values(self) -> None:
        for source, made in {
            "plain": "plain",
            "Hello {{ body.name }}!": "Hello Ann!",
            "{{ body['name'] }}{{ body.list[1] }}{{ body.list[-1] }}": "Annbc",
            "{{ body.map[body.rows[0].name|replace('x', 'two')] }}": "2",
            "{{ body.count }} {{ body.price }} {{ body.yes }} [{{ body.none }}]": "3 12.345 true []",
            "{{ body.map }} {{ body.list }}": '{"one": 1, "two": "2"} ["a", "b", "c"]',
            "{{ message.id }} {{ links.unsubscribe }}": "m1 https://n.example/u",
            "{{ body.items }} {{ body._private }}": "its own a field like any other",
            "{# a remark #}{{ 'text' }}{{ 7 }}{{ -1.5 }}{{ true }}{{ none }}": "text7-1.5true",
            "{% raw %}{{ no }}{% endraw %}": "{{ no }}",
        }.items():
            with self.subTest(source):
                SANDBOX.check(source)
                self.assertEqual(made, run(source))

    def test_what_is_not_there_is_empty(self) -> None:
        for source in (
            "{{ body.nope }}",
            "{{ body.nope.nothing[3].more }}",
            "{{ body.list.nope }}{{ body.list['x'] }}{{ body.list[99] }}{{ body.name[0] }}{{ body.name.upper }}",
            "{{ body.count.real }}{{ body.count[0] }}",
            "{% for x in body.nope %}x{% endfor %}{% for x in body.name %}x{% endfor %}{% for x in body.count %}x{% endfor %}",
            "{% for x, y in body.list|items %}x{% endfor %}",
            "{{ body.nope|upper }}{{ body.nope|join(',') }}{{ body.nope|first }}{{ body.list[9]|last }}",
            "{% if body.nope > 3 or 3 > body.nope or body.none < 1 or body.name >= 3 %}x{% endif %}",
            "{% if body.nope in body.list or 'x' in body.nope or body.none in body.list or 3 in body.name %}x{% endif %}",
            "{% if body.nope == 'x' or body.nope %}x{% endif %}{{ 'x' if body.nope }}",
            "{{ body.map[body.list] }}{{ body.list[body.yes] }}{{ body.list[1.0] }}",
        ):
            with self.subTest(source):
                SANDBOX.check(source)
                self.assertEqual("", run(source))
        self.assertEqual("", run("{{ body.nope }}", "a text"))

    def test_conditions(self) -> None:
        for condition in (
            "body.count == 3",
            "body.count != '3'",
            "body.nope == none",
            "body.none == body.nope",
            "body.count >= 3 and body.count < 4.5 and not body.count > 3",
            "body.name <= 'B' or false",
            "'nn' in body.name and 'a' in body.list and 'one' in body.map and body.name in ['Bob', 'Ann'] and 3 in (1, 3)",
            "'x' not in body.list",
            "body.nope is undefined and body.none is defined and body.none is none and body.name is string",
            "body.count is number and body.yes is not number and body.yes is true and body.count is odd and 2 is even",
            "body.list is list and body.map is mapping and body.yes is boolean and body.no is not false",
        ):
            with self.subTest(condition):
                source = f"{{% if {condition} %}}yes{{% elif body.name %}}no{{% else %}}never{{% endif %}}"
                SANDBOX.check(source)
                self.assertEqual("yes", run(source))
        self.assertEqual("b", run("{{ 'a' if body.count > 3 else 'b' }}"))

    def test_loops(self) -> None:
        for source, made in {
            "{% for x in body.list %}{{ loop.index }}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}": "1a, 2b, 3c",
            "{% for x in body.nope %}x{% else %}none{% endfor %}": "none",
            "{% for x in body.map %}{{ x }}={{ body.map[x] }};{% endfor %}": "one=1;two=2;",
            "{% for k, v in body.map|items %}{{ k }}={{ v }};{% endfor %}": "one=1;two=2;",
            "{% for x in body.list if x != 'b' %}{{ loop.index0 }}{{ loop.first }}{{ loop.length }}{{ x }} {% endfor %}": (
                "0true2a 1false2c "
            ),
            "{% for r in body.rows %}{{ r.name }}{% for t in r.tags %}{{ loop.index }}{{ t }}{% endfor %}{{ loop.index }};"
            "{% endfor %}": "x1t2u1;y2;",
            "{% for x in body.list %}\n  {% if x == 'b' %}\n{{ x }}\n  {% endif %}\n{% endfor %}\n": "b\n",
        }.items():
            with self.subTest(source):
                SANDBOX.check(source)
                self.assertEqual(made, run(source))

    def test_filters(self) -> None:
        for expression, made in {
            "body.name|upper": "ANN",
            "body.name|lower": "ann",
            "'two words'|title": "Two Words",
            "'two words'|capitalize": "Two words",
            "' x '|trim": "x",
            "body.nope|default('x')": "x",
            "body.none|d('x')": "",
            "body.none|default('x', true)": "x",
            "body.nope|default(body.name|upper)": "ANN",
            "body.list|length": "3",
            "body.count|length": "0",
            "body.list|first": "a",
            "body.list|last": "c",
            "body.name|first": "A",
            "body.list|join('-')": "a-b-c",
            "body.map|join": "onetwo",
            "body.rows|join(d=';')": '{"name": "x", "tags": ["t", "u"]};{"name": "y", "tags": []}',
            "'a-b'|replace('-', '+')": "a+b",
            "body.price|round(2)": "12.35",
            "body.price|round": "12.0",
            "body.price|int": "12",
            "'42.9'|int": "42",
            "'x'|int(-7)": "-7",
            "'1e999'|int": "0",
            "'3.5'|float": "3.5",
            "body.list|float(default=1.5)": "1.5",
            "body.map|tojson": '{"one": 1, "two": "2"}',
            "body.nope|tojson": "null",
            "'a b/\u00e4?&'|urlencode": "a%20b/%C3%A4%3F%26",
            "'one two three'|truncate(9)": "one...",
            "'one two three'|truncate(9, true)": "one tw...",
            "'one two three'|truncate(length=9, killwords=true, end='')": "one two t",
            "'one'|truncate(3)": "one",
            "'one'|truncate(2)": "...",
            "body.page|e": "&lt;b&gt;&amp;",
        }.items():
            with self.subTest(expression):
                SANDBOX.check(f"{{{{ {expression} }}}}")
                self.assertEqual(made, run(f"{{{{ {expression} }}}}"))

    def test_values_are_escaped_in_html_and_nowhere_else(self) -> None:
        source = "<p>{{ body.page }}</p>{{ body.page|escape }}{{ body.map }}"
        self.assertEqual('<p><b>&</p>&lt;b&gt;&amp;{"one": 1, "two": "2"}', run(source))
        escaped = "<p>&lt;b&gt;&amp;</p>&lt;b&gt;&amp;{&#34;one&#34;: 1, &#34;two&#34;: &#34;2&#34;}"
        self.assertEqual(escaped, run(source, html=True))
        for around in ("e|upper", "tojson", "join", "replace('x', 'y')", "trim", "truncate(99)", "first", "default('')"):
            made = run(
                f"{{{{ body.page|{around} }}}}{{{{ body.pages|{around} }}}}", {"page": "<b>", "pages": ["<b>"]}, html=True
            )
            self.assertNotIn("<", made, around)

    def test_what_no_text_can_hold(self) -> None:
        self.assertEqual("?", run("{{ body }}", "\ud800"))


REFUSED = {
    "a call": (
        "{{ body.name.upper() }}",
        "{{ range(10) }}",
        "{{ body.x.format(1) }}",
        "{{ body() }}",
        "{{ loop(1) }}",
        "{{ f() }}",
    ),
    "__ cannot": (
        "{{ ''.__class__ }}",
        "{{ body.__class__.__mro__ }}",
        "{{ body['__class__'] }}",
        "{{ ().__class__.__base__ }}",
    ),
    "no filter": (
        *(f"{{{{ body.name|{name} }}}}" for name in ("attr('x')", "center(1000000000)", "indent(99)", "wordwrap(1)", "list")),
        *(
            f"{{{{ body.list|{name} }}}}"
            for name in ("map('upper')", "batch(1)", "slice(9)", "sort", "groupby('x')", "sum", "xmlattr")
        ),
        *(f"{{{{ '%s'|{name} }}}}" for name in ("format(1)", "safe", "string", "urlize", "pprint", "filesizeformat", "random")),
        "{{ body|items }}",
    ),
    "no test": ("{{ 1 is divisibleby(0) }}", "{{ body is callable }}", "{{ body is sameas(1) }}", "{{ 'x' is filter }}"),
    "takes nothing": ("{{ body is defined(1) }}", "{{ body|upper(1) }}", "{{ body|upper(x=1) }}", "{{ body is odd(*body) }}"),
    "takes": (
        "{{ body|replace('a', 'b', 1) }}",
        "{{ body|join(*body.x) }}",
        "{{ body|join(**body.x) }}",
        "{{ body|join('', d='') }}",
    ),
    "needs": ("{{ body|replace('a') }}", "{{ body|replace(new='a') }}"),
    "constant": (
        "{{ body|replace('', 'x') }}",
        "{{ body|replace(body.x, 'x') }}",
        "{{ body|truncate(1000000000) }}",
        "{{ body|truncate(-1) }}",
        "{{ body|truncate(true) }}",
        "{{ body|round(-1000000000) }}",
        "{{ body|round(body.x) }}",
        "{{ body|join(body.x) }}",
        "{{ body|int(body.x) }}",
        "{{ body|default(1, 1) }}",
    ),
    "cannot be used": (
        *(f"{{{{ 'x' {operator} 9 }}}}" for operator in ("*", "**", "%", "/", "//", "+", "-", "~")),
        "{{ 9**9**9 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ {'a': 1} }}",
        "{{ body[1:2] }}",
        "{{ -body.count }}",
        "{{ +1 }}",
        "{% set x = 1 %}",
        "{% set x %}y{% endset %}",
        "{% with x = 1 %}{% endwith %}",
        "{% macro m() %}{{ m() }}{% endmacro %}",
        "{% call x() %}{% endcall %}",
        "{% import 'x' as y %}",
        "{% from 'x' import y %}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% block b %}{% endblock %}",
        "{% autoescape false %}{{ body.page }}{% endautoescape %}",
        "{% for x in body.list recursive %}{% endfor %}",
        "{% filter upper %}x{% endfilter %}",
    ),
    "has to go through": (
        "{% for x in 'abc' %}{% endfor %}",
        "{% for x in [1, 2] %}{% endfor %}",
        "{% for x, y in body|items(1) %}{% endfor %}",
        "{% for x in body.x|default('abc') %}{% endfor %}",
        "{% for x in body.x or body.y %}{% endfor %}",
        "{% for x in body.a %}{% for y in body.a %}{% endfor %}{% endfor %}",
        "{% for x in body.a %}{% for y in x.b %}{% for z in x.b %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for x in body.a %}{% for y in message.id %}{% endfor %}{% endfor %}",
    ),
    "stand in one another": (
        "{% for a in body.x %}{% for b in a %}{% for c in b %}{% for d in c %}{% for e in d %}" + "{% endfor %}" * 5,
    ),
    "one variable": (
        "{% for x, y in body.a %}{% endfor %}",
        "{% for x in body.a|items %}{% endfor %}",
        "{% for x, x in body.a|items %}{% endfor %}",
    ),
    "cannot be the variable": (
        "{% for body in body.a %}{% endfor %}",
        "{% for _budget in body.a %}{% endfor %}",
        "{% for a in body.a %}{% for a in a.b %}{% endfor %}{% endfor %}",
    ),
    "there is no": (
        "{{ bodi.name }}",
        "{{ _budget }}",
        "{{ self }}",
        "{{ cycler }}",
        "{{ loop.index }}",
        "{{ x }}{% for x in body %}{% endfor %}",
    ),
    "needs the name of a field": (
        "{{ links }}",
        "{{ message|tojson }}",
        "{% for x in message %}{% endfor %}",
        "{% for x in body %}{{ loop }}{% endfor %}",
    ),
    "has no": (
        "{{ message.body }}",
        "{{ links['confirm'] }}",
        "{{ links[body.x] }}",
        "{% for x in body %}{{ loop.cycle }}{% endfor %}",
    ),
    "constants only": (
        "{{ [body, body]|tojson }}",
        "{{ body in [body.x] }}",
        "{{ ['x', ['y']] }}",
        "{{ 1 in [" + "1," * 101 + "] }}",
    ),
    "two values": ("{{ 1 < body.x < 3 }}",),
    "too large": ("{{ 1000000000000000 }}", "{{ 0xffffffffffffffffffff }}", "{{ 1e999 }}", "{{ body.x|int(1e300) }}"),
    "no value": ("{{ " + "9" * 5000 + " }}",),
    "Unicode": ("{{ '\\ud800' }}", "\ud800"),
    "characters": ("x" * (MOST_SOURCE + 1),),
    "parts": ("{{ body }}" * 1100, "{{ body.a" + ".b" * 3 + " }}" + "{% if body %}x{% endif %}" * 400),
    "nested too deeply": (
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "not " * 4000 + "1 }}",
        "{{ " + "-" * 8000 + "1 }}",
        "{{ body" + ".a" * 8000 + " }}",
        "{{ body" + "|e" * 8000 + " }}",
        "{{ body" + "[0]" * 5000 + " }}",
        "{{ 1" + " or 1" * 3000 + " }}",
        "{{ " + "1 if 1 else " * 1300 + "1 }}",
        "{{ " + "[" * 8000 + "]" * 8000 + " }}",
        "{% if body %}" * 600 + "{% endif %}" * 600,
    ),
    "line 3: ": ("a\nb\n{{ c }}", "a\nb\n{% if %}", "\n\n{{ body|nope }}", "\n\n{{ 'a' ~ 'b' }}"),
    "unexpected": (
        "{{ body",
        "{{ body }",
        "{% if body %}",
        "{{ }}",
        "{% endif %}",
        "{% for %}",
        "{{ 'a }}",
        "{{ 1_ }}",
        "{{ $ }}",
    ),
    "unknown tag": ("{% break %}", "{% trans %}x{% endtrans %}", "{% do body %}", "{% debug %}"),
}


class WhatIsRefused(unittest.TestCase):
    def test_when_it_is_given_and_when_it_is_used(self) -> None:
        for why, sources in REFUSED.items():
            for source in sources:
                with self.subTest(why, source=source[:80]):
                    with self.assertRaises(Refused) as raised:
                        SANDBOX.check(source)
                    if why != "unexpected":  # then it is Jinja2 that says what it is
                        self.assertIn(why, str(raised.exception))
                    self.assertLess(len(str(raised.exception)), 500)
                    with self.assertRaises(Refused) as again:
                        run(source)
                    self.assertEqual(str(raised.exception), str(again.exception))

    def test_nothing_of_jinja2_has_been_forgotten(self) -> None:
        """Each filter and test that it has is one of ours or refused."""
        from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_NAMESPACE, DEFAULT_TESTS

        from zaqar_notify.sandbox.functions import FILTERS, TESTS

        for name in DEFAULT_FILTERS.keys() - FILTERS.keys():
            with self.assertRaises(Refused, msg=name):
                SANDBOX.check(f"{{{{ body|{name} }}}}")
        for name in DEFAULT_TESTS.keys() - TESTS.keys() - {"==", "!=", "<", "<=", ">", ">="}:
            with self.assertRaises(Refused, msg=name):
                SANDBOX.check(f"{{{{ body is {name} }}}}")
        for name in DEFAULT_NAMESPACE:
            with self.assertRaises(Refused, msg=name):
                SANDBOX.check(f"{{{{ {name} }}}}")

    def test_names_of_ours_cannot_be_used(self) -> None:
        for source in ("{{ body|_each(true, 0) }}", "{{ body is _eq }}", "{{ body is _in('x') }}"):
            with self.assertRaises(Refused, msg=source):
                SANDBOX.check(source)


TOO_MUCH = (
    "{% for r in body.rows %}{{ body.text|upper|length }}{% endfor %}",
    "{% for r in body.rows %}{{ body.text|urlencode|length }}{% endfor %}",
    "{% for r in body.rows %}{{ body.text|replace('" + "x" * 50 + "y', '')|length }}{% endfor %}",
    "{% for r in body.rows %}{{ 'xxxxxxxxxxxxxxxxxxxxy' in body.text }}{% endfor %}",
    "{% for r in body.rows %}{{ '" + "a" * 1000 + "' in '" + "a" * 1200 + "b' }}{% endfor %}",
    "{% for r in body.rows %}{{ 7777777 in body.numbers }}{% endfor %}",
    "{% for r in body.rows %}{{ body.numbers|tojson|length }}{% endfor %}",
    "{% for r in body.rows %}{{ body.numbers|join('x')|length }}{% endfor %}",
    "{% for r in body.rows %}{% if body.text == body.other %}{% endif %}{% endfor %}",
    "{% for r in body.numbers %}" + "{% if r > 3 %}{% endif %}" * 100 + "{% endfor %}",
    "{% for r in body.numbers %}{% endfor %}" * 50,
    "{{ body.text" + "|upper|lower" * 12 + " }}",
    "{{ body.text" + "|tojson" * 25 + " }}",
    "{{ body.quotes" + "|tojson" * 25 + " }}",
    "{{ body.quotes" + "|urlencode" * 25 + " }}",
    "{{ body.text|replace('x', '" + "y" * 10000 + "') }}",
    "{{ body.numbers|join('" + "y" * 10000 + "') }}",
    "{{ body.text }}" * 100,
    "{% for r in body.numbers %}" + "y" * 10000 + "{% endfor %}",
    "{{ body.deep|tojson }}",
    "{{ body.list == body.list }}",
    "{{ body.list in body.numbers }}",
)


def large() -> dict[str, Any]:
    """About as large as a message can be, in each direction."""
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    return {
        "rows": [{"a": number} for number in range(5000)],
        "numbers": list(range(100_000)),
        "text": "x" * 260_000,
        "other": "".join(["x"] * 260_000),
        "quotes": '"' * 130_000,
        "list": [1],
        "deep": deep,
    }


class WhatGoesTooFar(unittest.TestCase):
    def test_it_ends_where_the_budget_does(self) -> None:
        body = large()
        for source in TOO_MUCH:
            with self.subTest(source[:80]):
                SANDBOX.check(source)
                for html in (False, True):
                    with self.assertRaises(Refused):
                        run(source, body, html=html)

    def test_several_share_a_budget(self) -> None:
        budget = Budget()
        run("{{ body }}", "x" * (MOST_OUTPUT - 10), budget=budget)
        with self.assertRaisesRegex(Refused, str(MOST_OUTPUT)):
            run("{{ body }}", "x" * 11, budget=budget)

    def test_a_page_of_thousands_of_rows_is_not_too_much(self) -> None:
        source = "{% for r in body %}<tr><td>{{ loop.index }}</td><td>{{ r.name|upper }}</td></tr>\n{% endfor %}"
        made = run(source, [{"name": f"row {number}"} for number in range(3000)], html=True)
        self.assertEqual(3000, made.count("</tr>"))

    def test_in_bounded_time_and_memory(self) -> None:
        """A process that may use 40 seconds of its own and 1 GiB ends by itself."""
        script = textwrap.dedent("""
            import resource
            resource.setrlimit(resource.RLIMIT_CPU, (40, 40))
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
            from tests.unit.test_sandbox import REFUSED, SANDBOX, TOO_MUCH, Refused, large, run
            body = large()
            for source in [*TOO_MUCH, *(source for sources in REFUSED.values() for source in sources)]:
                try:
                    run(source, body)
                except Refused:
                    pass
                else:
                    raise SystemExit(source)
        """)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        self.assertEqual((0, ""), (done.returncode, done.stderr))


class Grammar:
    """Makes templates of all that may be used, most of them too deep or too long for a person."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = (f"v{number}" for number in itertools.count())

    def template(self) -> str:
        return self.block(self.random.randint(1, 7), ["body"], None)

    def block(self, depth: int, names: list[str], inner: str | None) -> str:
        return "".join(self.statement(depth, names, inner) for _ in range(self.random.randint(1, 4)))

    def statement(self, depth: int, names: list[str], inner: str | None) -> str:
        kind = self.random.choice(["text", "output", "if", "for"]) if depth else "output"
        if kind == "text":
            return self.random.choice(["text ", "\n", "  {# remark #}\n", "<p>", "{% raw %}{{ {% endraw %}"])
        if kind == "output":
            return f"{{{{ {self.expression(depth, names)} }}}}"
        if kind == "if":
            first, second = (self.expression(depth - 1, names) for _ in range(2))
            parts = [self.block(depth - 1, names, inner) for _ in range(3)]
            return f"{{% if {first} %}}{parts[0]}{{% elif {second} %}}{parts[1]}{{% else %}}{parts[2]}{{% endif %}}"
        variable = next(self.names)
        through = f"{inner or self.random.choice(names)}.{self.field()}"
        body = self.block(depth - 1, [*names, variable, "loop.index", "loop.last"], variable)
        if self.random.random() < 0.3:
            return f"{{% for k{variable}, {variable} in {through}|items %}}{body}{{% endfor %}}"
        test = f" if {self.expression(0, [variable])}" if self.random.random() < 0.3 else ""
        return f"{{% for {variable} in {through}{test} %}}{body}{{% else %}}none{{% endfor %}}"

    def field(self) -> str:
        return self.random.choice(["name", "list", "rows", "tags", "map", "count", "nope", "none"])

    def expression(self, depth: int, names: list[str]) -> str:
        if not depth:
            name = self.random.choice(names)
            return self.random.choice(["'text'", "7", "-1.5", "none", name if "." in name else f"{name}.{self.field()}"])
        one, two = (self.expression(depth - 1, names) for _ in range(2))
        return self.random.choice(
            [
                f"({one} and {two})",
                f"({one} or not {two})",
                f"({one} if {two} else 'x')",
                f"({one}|e)",
                f"({one} {self.random.choice(['is', 'is not'])} {self.random.choice(['defined', 'none', 'number', 'odd'])})",
                f"(({one}|e) {self.random.choice(['==', '!=', '<', '>=', 'in', 'not in'])} ({two}|trim))",
                f"(({one})|default({two}))",
            ]
            + [
                f"(({one})|{name})"
                for name in ("upper", "length", "first", "join('-')", "truncate(5)", "tojson", "round(1)", "replace('a', 'b')")
            ]
        )


class WhatIsLetThrough(unittest.TestCase):
    def test_it_can_be_compiled_and_made(self) -> None:
        made = 0
        for seed in range(100):
            source = Grammar(seed).template()
            with self.subTest(seed):
                try:
                    SANDBOX.check(source)
                except Refused as refused:
                    self.assertRegex(str(refused), "deeply|parts|stand in one another|characters")
                    continue
                for html in (False, True):
                    try:
                        run(source, html=html)
                    except Refused as refused:
                        self.assertRegex(str(refused), "too many steps|characters|compared")
                made += 1
        self.assertGreater(made, 50)

    def test_the_deepest(self) -> None:
        deep = "{% if body.name|upper|lower %}"
        for depth in range(40):
            source = deep * depth + "x" + "{% endif %}" * depth
            try:
                SANDBOX.check(source)
            except Refused:
                self.assertGreater(depth, 10)
                break
            self.assertEqual("x", run(source))
        loops = "".join(f"{{% for v{n + 1} in v{n}.a if v{n + 1} %}}" for n in range(3))
        source = "{% for v0 in body.a if v0 %}" + loops + "{{ v3 }}{{ loop.last }}" + "{% else %}none{% endfor %}" * 4
        self.assertEqual("1true", run(source, {"a": [{"a": [{"a": [{"a": [1]}]}]}]}))

    def test_compiled_ones_are_kept_and_forgotten(self) -> None:
        sandbox = Sandbox(NAMES)
        first = sandbox._template("first", False)
        self.assertIs(first, sandbox._template("first", False))
        self.assertIsNot(first, sandbox._template("first", True))
        for number in range(300):
            sandbox._template(f"{number}", False)
        self.assertLess(len(sandbox._compiled), 300)
        self.assertIsNot(first, sandbox._template("first", False))
