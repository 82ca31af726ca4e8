"""Chat templates of strangers: each is refused by a ValueError, soon, and without much memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from gpt2fast.text.chat_template import CompiledTemplate

pytest.importorskip("jinja2")

CONVERSATION = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "you"}]
#: Of the processor: many times what a rendering may take by the clock.
SECONDS = 20.0
MEMORY_ALLOWANCE = 256 << 20

DOUBLED = "{{% set ns = namespace(x={}) %}}{{% for i in range(60) %}}{{% set ns.x = {} %}}{{% endfor %}}{}"
NESTED = "{{% for a in range(99999) %}}{{% for b in range(99999) {} %}}{{% endfor %}}{{% endfor %}}"
LARGE = "{% set x = 'x' * 4000000 %}"
HOSTILE = {
    "loops that say nothing": NESTED.format(""),
    "loops whose test is false": NESTED.format("if false"),
    "a macro that calls itself twice": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "filters in loops": "{% for a in range(99999) %}{% if range(99999)|sum %}{% endif %}{% endfor %}",
    "tests of many items": (
        "{% for a in range(9999) %}{{ range(99999)|select('odd')|list|length }}{% endfor %}"
    ),
    "a power": "{{ 7 ** 99999999 }}",
    "a product of numbers": DOUBLED.format("7", "ns.x * ns.x", ""),
    "a product of text": "{{ ('x' * 4000000000)|length }}",
    "a product of lists": "{{ (4000000000 * [1])|length }}",
    "wide text": "{{ 'x'.center(4000000000)|length }}",
    "a wide number": "{{ '%4000000000d' % 1 }}",
    "a width as an argument": "{{ '%*d' % (4000000000, 1) }}",
    "a wide field": "{{ '{:4000000000}'.format(1)|length }}",
    "a width in a field": "{{ '{:{}}'.format(1, 4000000000)|length }}",
    "a filter's width": "{{ 'x'|center(4000000000)|length }}",
    "a filter's format": "{{ '%4000000000d'|format(1) }}",
    "a format with much in each field": LARGE + "{{ ('%(a)s' * 9999) % {'a': x} }}",
    "deep JSON": "{{ messages|tojson(indent=4000000000) }}",
    "replaced nothing": LARGE + "{{ x.replace('', x)|length }}",
    "a filter that replaces": LARGE + "{{ x|replace('x', x)|length }}",
    "a long separator": LARGE + "{{ range(99999)|join(x)|length }}",
    "a method that joins": LARGE + "{{ x.join(['a'] * 99999)|length }}",
    "a method that joins what is generated": LARGE + "{{ x.join(range(99999)|map('string'))|length }}",
    "a method that translates": LARGE + "{{ x.translate({120: x})|length }}",
    "many long items": LARGE + "{{ range(99999)|map('replace', '1', x)|join|length }}",
    "text doubled": DOUBLED.format("'x'", "ns.x ~ ns.x", "{{ ns.x|length }}"),
    "text added": DOUBLED.format("'x'", "ns.x + ns.x", "{{ ns.x|length }}"),
    "a list in a list": DOUBLED.format("'x'", "[ns.x, ns.x]", "{{ ns.x }}"),
    "a tuple in a tuple": DOUBLED.format("'x'", "(ns.x, ns.x)", "{{ ns.x }}"),
    "a dictionary in one": DOUBLED.format("'x'", "{1: ns.x, 2: ns.x}", "{{ ns.x|string }}"),
    "a call's dictionary": DOUBLED.format("'x'", "dict(a=ns.x, b=ns.x)", "{{ ns.x|tojson }}"),
    "views in a dictionary": DOUBLED.format("{}", "{'a': ns.x.items(), 'b': ns.x.items()}", "{{ ns.x }}"),
    "a namespace in a namespace": DOUBLED.format("'x'", "namespace(a=ns.x, b=ns.x)", "{{ ns.x|string }}"),
    "much in a macro": "{% macro m() %}{% for a in range(99999) %}"
    + "x" * 9999
    + "{% endfor %}{% endmacro %}"
    "{{ m()|length }}",
    "much in a variable": LARGE + "{% set y %}{% for a in range(99999) %}{{ x }}{% endfor %}{% endset %}",
    "many empty lists": "{{ [1]|slice(4000000000)|list|length }}",
    "many paragraphs": "{{ lipsum(100000)|length }}",
    "itself": "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_it_is_refused_soon(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2fast.text.bounded_jinja._SECONDS", 1.0)  # to be quick
    template = CompiledTemplate(source, {})
    start = time.process_time()
    with pytest.raises(ValueError, match=r"The chat template refuses these messages: .*(too much|undefined)"):
        template.render(CONVERSATION, add_generation_prompt=True)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize(
    "name", ["many long items", "text doubled", "much in a macro", "views in a dictionary"]
)
def test_it_takes_little_memory(name: str) -> None:
    template = CompiledTemplate(HOSTILE[name], {})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too much"):
            template.render(CONVERSATION, add_generation_prompt=True)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_ALLOWANCE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% for i in range(2) %}" * 30 + "{% endfor %}" * 30,
        "{% if true %}" * 3000 + "{% endif %}" * 3000,
        "{{ " + "9" * 5000 + " }}",
        "{{ 'x'|center(4000000000) }}" + "{% endfor %}",
    ],
    ids=["parentheses", "loops", "conditions", "a long number", "an end too many"],
)
def test_what_the_compiler_refuses(source: str) -> None:
    with pytest.raises(ValueError, match="the chat template is broken: "):
        CompiledTemplate(source, {})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 'a'.b.c }}", "has no attribute"),
        ("{{ 'x'.index('y') }}", "substring not found"),
        ("{{ messages|tojson(bogus=3) }}", "unexpected keyword"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_what_it_raises_is_a_value_error(source: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"The chat template refuses these messages: .*{text}"):
        CompiledTemplate(source, {}).render(CONVERSATION, add_generation_prompt=True)


def test_a_memory_error_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise MemoryError

    monkeypatch.setattr("gpt2fast.text.bounded_jinja.json.dumps", fail)
    with pytest.raises(ValueError, match="refuses these messages: no memory"):
        CompiledTemplate("{{ messages|tojson }}", {}).render(CONVERSATION, add_generation_prompt=True)


def test_ordinary_templates_are_rendered() -> None:
    source = """{%- set ns = namespace(found=[], first=true) -%}
{%- macro turn(message, mark='|') -%}<{{ message.role }}>
{{- message['content'] | trim ~ mark }}{%- endmacro -%}
{%- for message in messages if message.role != 'system' -%}
{%- set ns.found = ns.found + [message.role] -%}
{{ turn(message) }}{% if loop.last and add_generation_prompt %}{{ '\\n' * 2 }}{% endif %}
{%- endfor -%}
{{ ns.found | join(',') }} {{ '%s-%03d' % ('a', 7) }} {{ '{:>4}'.format('b') }} {{ 2 ** 10 }} {{ 7 % 4 }}
{{ messages | map(attribute='role') | list | tojson(indent=None) }} {{ (messages | length) * 2 }}
{% for a, b in {'k': (1, 2)}.items() %}{{ a ~ b }}{% endfor %} {{ 'a-b'.split('-', 1)[-1] }}{{ eos_token }}
{{ dict(a=1) }} {{ 'é' | tojson }} {{ 'Hi'.replace('H', 'J') }} {{ none is none }} {{ 1.5 * 2 }} {{- ' ' }}
{{- true * 3 }}"""
    wanted = """<user>Hello|<assistant>you|

user,assistant a-007    b 1024 3
["user", "assistant"] 4
k(1, 2) b</s>
{'a': 1} "é" Ji True 3.0 3"""
    template = CompiledTemplate(source, {"eos_token": "</s>"})
    for _ in range(2):
        assert template.render(CONVERSATION, add_generation_prompt=True) == wanted


def test_long_texts_are_rendered() -> None:
    source = """{% set x = messages[0].content %}{{ x.startswith('a' * 999) }}
{{- x.split('y' * 999, 1)|length }}
{{- (x|default('d' * 999))|length }}{{ x.replace('<image>', '<|a name of a token|>')|length }}"""
    text = CompiledTemplate(source, {}).render(
        [{"role": "user", "content": "x" * 999_999}], add_generation_prompt=True
    )
    assert text == "False1999999999999"


def test_long_conversations_are_rendered() -> None:
    source = """{% set ns = namespace(all=[]) %}{% for message in messages %}
{% set ns.all = ns.all + [message] %}{{ loop.index0 == messages | length - 1 }}{% endfor %}"""
    conversation = [{"role": "user", "content": "x" * 1000}] * 500
    text = CompiledTemplate(source, {}).render(conversation, add_generation_prompt=True)
    assert text.count("False") == 499
