"""Jinja's sandbox with bounds: a template from a stranger ends soon, and makes nothing huge.

Whatever runs for long passes a block, a call, a filter or a test again and again: each of them looks at the
time. Whatever becomes large does so step by step, as long as no step makes much more than what it is given:
those that could are refused by what they are given, and what a step has made is measured.
"""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_SECONDS = 5.0
# Characters and items of one value; of all values of a rendering together.
_MOST_OF_ONE, _MOST_OF_ALL = 1 << 22, 1 << 26
_MOST_BITS = 1 << 12
# How many items a generator may have: what `range` gives in Jinja's sandbox, and a few more.
_MOST_GENERATED = 1 << 17
_LONGEST_FORMAT = 1 << 16
_DEEPEST_INDENT = 16
# What may make as much as the length of what it is given times its argument.
_MULTIPLYING_METHODS = {"center", "expandtabs", "join", "ljust", "replace", "rjust", "translate", "zfill"}
_MULTIPLYING_FILTERS = {"batch", "center", "indent", "join", "replace", "slice", "urlize", "wordwrap"}
# Widths of four digits, and widths that are arguments.
_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*(\d{4}|\*)|\{[^{}]*(\d{4}|\{)")


class GenerationTag(Extension):
    """``{% generation %}``, in which ``transformers`` marks what a model said, is what it holds."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """The block as a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class TemplateLimitError(TemplateError):
    """A template makes too much, or takes too long."""

    def __init__(self) -> None:
        super().__init__("it makes too much of them")


class _Generator(CodeGenerator):
    """Writes code that measures as it runs."""

    def blockvisit(self, nodes_: Iterable[nodes.Node], frame: Frame) -> None:
        body = list(nodes_)
        constant = sum(
            len(part.data)
            for output in body
            if isinstance(output, nodes.Output)
            for part in output.nodes
            if isinstance(part, nodes.TemplateData)
        )
        self.writeline(f"environment.spend({1 + constant})")
        super().blockvisit(body, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        self.write("environment.made(")
        super().visit_List(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self.write("environment.made(")
        super().visit_Dict(node, frame)
        self.write(")")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        is_value = node.ctx == "load"
        self.write("environment.made(" if is_value else "")
        super().visit_Tuple(node, frame)
        self.write(")" if is_value else "")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The environment of one template, which any number of threads may render."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        self._state = threading.local()
        super().__init__(finalize=self.shown, **options)
        del self.globals["lipsum"]
        self.filters["tojson"] = _to_json
        self.filters = {name: self._bounded_filter(name, one) for name, one in self.filters.items()}
        self.tests = {name: self._counted(one) for name, one in self.tests.items()}

    def begin(self) -> None:
        """Before a template is compiled or rendered in this thread."""
        self._state.left, self._state.end = _MOST_OF_ALL, time.monotonic() + _SECONDS

    def spend(self, amount: int = 1) -> None:
        """Raise if that is too much, or the time is over."""
        self._state.left -= amount
        if self._state.left < 0 or time.monotonic() > self._state.end:
            raise TemplateLimitError

    def made(self, value: Any) -> Any:
        """The value, which is not too large; what is in a container was counted when it was made."""
        if isinstance(value, Collection) and not isinstance(value, range):
            _weight(value)
            self.spend(len(value))
        return value

    def shown(self, value: Any) -> Any:
        """The value, which becomes text."""
        self.spend(_weight(value))
        return value

    def joined(self, parts: tuple[Any, ...]) -> str:
        """The parts as one text."""
        self.spend(_weight(parts))
        return "".join(map(str, parts))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Of a template: a call that ends soon."""
        __self.spend()
        method = getattr(__obj, "__wrapped__", __obj)
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            if method.__name__.startswith("format"):
                _expect_format(text, "{", (args, kwargs))
            if method.__name__ in _MULTIPLYING_METHODS:
                _expect(text, *args, *kwargs.values())
        return __self.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Of a template: an operation that ends soon."""
        self.spend()
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * abs(right) > _MOST_BITS:
                raise TemplateLimitError
        elif operator == "*":
            _expect_product(left, right)
        elif operator == "%" and isinstance(left, str):
            _expect_format(left, "%", right)
        return self.made(super().call_binop(context, operator, left, right))

    def _bounded_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self.spend()
            own = [one for one in args if not isinstance(one, (Context, EvalContext, Environment))]
            given = [*own, *kwargs.values()]
            if any(isinstance(one, Namespace) for one in given):
                raise TemplateLimitError  # its text has that of all it holds
            if name == "format":
                _expect_format(str(given[0]), "%", given[1:])
            elif name in _MULTIPLYING_FILTERS:
                _expect(*given)
            return self.made(function(*args, **kwargs))

        return bounded

    def _counted(self, function: Any) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.spend()
            return function(*args, **kwargs)

        return counted


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """As ``transformers`` has it: without the escapes that HTML needs."""
    if indent is not None and not 0 <= indent <= _DEEPEST_INDENT:
        raise TemplateLimitError
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _weight(value: Any) -> int:
    """How many characters and items a value has, what it has twice counted twice."""
    weight, rest = 0, [value]
    while rest:
        one = rest.pop()
        if isinstance(one, (str, bytes)):
            weight += len(one)
        elif isinstance(one, Collection) and not isinstance(one, range):
            weight += len(one)
            rest += [*one, *one.values()] if isinstance(one, Mapping) else one
        elif isinstance(one, Namespace):
            raise TemplateLimitError
        else:
            weight += 1 + (one.bit_length() // 4 if isinstance(one, int) else 0)
        if weight > _MOST_OF_ONE:
            raise TemplateLimitError
    return weight


def _expect(subject: Any, *arguments: Any) -> None:
    """Refuse what may make as much as the subject's length times the largest argument."""
    if (_size(subject) + 1) * max(map(_size, arguments), default=1) > _MOST_OF_ALL:
        raise TemplateLimitError


def _size(value: Any) -> int:
    """What counts of a subject or an argument: a number itself, a length, all that a table has."""
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, Mapping):
        return _weight(value)
    if isinstance(value, Collection):
        return len(value)
    return _MOST_GENERATED if isinstance(value, Iterator) else 1


def _expect_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _MOST_BITS:
            raise TemplateLimitError
        return
    for sequence, times in ((left, right), (right, left)):
        is_product = isinstance(sequence, Collection) and isinstance(times, int)
        if is_product and len(sequence) * times > _MOST_OF_ONE:
            raise TemplateLimitError


def _expect_format(text: str, mark: str, values: Any) -> None:
    """Refuse wide fields, and more in all of them than may be made."""
    too_wide = len(text) > _LONGEST_FORMAT or _WIDE_FORMAT.search(text)
    if too_wide or text.count(mark) * _weight(values) > _MOST_OF_ALL:
        raise TemplateLimitError
