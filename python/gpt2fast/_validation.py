"""Checks of arguments: each names the argument in its errors and returns the value in plain form."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real as RealNumber
from operator import index
from typing import Any, Protocol

#: The most texts that one call may have.
MAX_PROMPTS = 1 << 16


class Check(Protocol):
    """Takes an argument's name and value; returns the value in plain form, or raises an error."""

    def __call__(self, name: str, value: Any) -> Any: ...


# Dataclasses for their constructors only: generating the other methods takes longer than the rest of the
# import.


@dataclass(eq=False, repr=False)
class Integer:
    """An integer of any integer type, from ``low`` to ``high``."""

    low: int
    high: int

    def __call__(self, name: str, value: Any) -> int:
        try:
            number = index(value)
        except TypeError:
            number = None
        if number is None or is_bool(value):
            raise TypeError(f"{name} must be an integer, got {shown(value)}")
        if not self.low <= number <= self.high:
            bits = number.bit_length()  # Python refuses to write out numbers of many digits
            got = number if bits <= 128 else f"an integer of {bits} bits"
            raise ValueError(f"{name} must be from {self.low} to {self.high}, got {got}")
        return number


@dataclass(eq=False, repr=False)
class Seed:
    """An integer of 64 bits, with or without a sign, as in PyTorch; becomes one without.

    -1 becomes None, for a new seed, as in vLLM and llama.cpp.
    """

    limits: Integer

    def __call__(self, name: str, value: Any) -> int | None:
        number = self.limits(name, value)
        return None if number == -1 else number % 2**64


@dataclass(eq=False, repr=False)
class Real:
    """A number from ``low`` (excluded if ``open_low``) to ``high``; ``zero`` also allows 0."""

    low: float
    high: float
    open_low: bool = False
    zero: bool = False

    def __call__(self, name: str, value: Any) -> float:
        if is_bool(value) or not isinstance(value, RealNumber):
            raise TypeError(f"{name} must be a number, got {shown(value)}")
        try:
            number = float(value)
        except OverflowError:  # an integer beyond all floats
            number = -math.inf if value < 0 else math.inf
        above = number > self.low if self.open_low else number >= self.low
        if not (above and number <= self.high) and not (self.zero and number == 0):
            bracket = "(" if self.open_low else "["
            also = "0 or " if self.zero else ""
            raise ValueError(f"{name} must be {also}in {bracket}{self.low:g}, {self.high:g}], got {number:g}")
        return number


@dataclass(eq=False, repr=False)
class Flag:
    """True or false."""

    def __call__(self, name: str, value: Any) -> bool:
        if not is_bool(value):
            raise TypeError(f"{name} must be True or False, got {shown(value)}")
        return bool(value)


@dataclass(eq=False, repr=False)
class FlagOr:
    """True, false or one word."""

    word: str

    def __call__(self, name: str, value: Any) -> bool | str:
        if isinstance(value, str) and value == self.word:
            return self.word
        if not is_bool(value):
            raise TypeError(f"{name} must be True, False or {self.word!r}, got {shown(value)}")
        return bool(value)


@dataclass(eq=False, repr=False)
class Instance:
    """An object of a class that is given by name, so that the check need not import it."""

    module: str
    type_name: str

    def __call__(self, name: str, value: Any) -> Any:
        module = sys.modules.get(self.module)
        if module is None or not isinstance(value, getattr(module, self.type_name)):
            raise TypeError(f"{name} must be a {self.type_name}, got {shown(value)}")
        return value


def _takes_three(function: Callable[..., Any]) -> bool:
    """Whether a function takes three arguments by place, as far as Python knows."""
    from inspect import signature

    try:
        parameters = signature(function)
    except (TypeError, ValueError):  # as of some that are written in C
        return True
    try:
        parameters.bind(None, None, None)
    except TypeError:
        return False
    return True


@dataclass(eq=False, repr=False)
class Callables:
    """A function or several, at most ``limit``; becomes a tuple."""

    limit: int

    def __call__(self, name: str, value: Any) -> tuple[Callable[..., Any], ...]:
        single = callable(value) and not isinstance(value, list)  # a LogitsProcessorList is both
        values = (value,) if single else _sequence(name, value, "a function or a list of functions")
        _check_count(name, values, self.limit)
        for position, one in enumerate(values):
            if not callable(one):
                raise TypeError(f"{name}[{position}] must be a function, got {shown(one)}")
            if any(kind.__name__ in _OF_TRANSFORMERS for kind in type(one).__mro__):
                raise TypeError(
                    f"{name}[{position}] is a {type(one).__name__} of transformers, which returns scores; "
                    f"give a function of (prompt_ids, output_ids, scores) that changes the scores in place"
                )
            if not _takes_three(one):
                raise TypeError(
                    f"{name}[{position}] must take (prompt_ids, output_ids, scores) and change the scores in "
                    f"place, and return nothing"
                )
        return tuple(values)


@dataclass(eq=False, repr=False)
class Choice:
    """One of a few words; a member of an enumeration of strings becomes the word itself."""

    words: tuple[str, ...]

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, self.words))}, got {value!r}")
        return self.words[self.words.index(value)]


@dataclass(eq=False, repr=False)
class Strings:
    """A string or several, none empty, at most ``limit``; becomes a tuple."""

    limit: int

    def __call__(self, name: str, value: Any) -> tuple[str, ...]:
        values = (
            (value,) if isinstance(value, str) else _sequence(name, value, "a string or a list of strings")
        )
        _check_count(name, values, self.limit)
        for position, one in enumerate(values):
            if not isinstance(one, str):
                raise TypeError(f"{name}[{position}] must be a string, got {shown(one)}")
            if not one:
                raise ValueError(f"{name}[{position}] must not be empty")
        return tuple(values)


@dataclass(eq=False, repr=False)
class String:
    """A string that is not empty, of at most ``limit`` characters."""

    limit: int

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, got {shown(value)}")
        if not 0 < len(value) <= self.limit:
            raise ValueError(f"{name} must have from 1 to {self.limit} characters, got {len(value)}")
        return value


@dataclass(eq=False, repr=False)
class JsonSchema:
    """A JSON schema, as a dict or as JSON text of at most ``limit`` characters; becomes JSON text."""

    limit: int

    def __call__(self, name: str, value: Any) -> str:
        if isinstance(value, Mapping):
            try:
                value = json.dumps(dict(value), allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(f"{name} must be a JSON schema: {error}") from None
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a dict or a string, got {shown(value)}")
        return String(self.limit)(name, value)


@dataclass(eq=False, repr=False)
class TokenIds:
    """A token id or several; becomes a tuple. Only the model knows how many ids there are."""

    limit: int

    def __call__(self, name: str, value: Any) -> tuple[int, ...]:
        single = hasattr(value, "__index__") and not (isinstance(value, Collection) and _has_items(value))
        values = (value,) if single else _sequence(name, value, "a token id or a list of them")
        _check_count(name, values, self.limit)
        if all_in_range(values, _TOKEN_ID.low, _TOKEN_ID.high):
            return tuple(values)
        return tuple(_TOKEN_ID(f"{name}[{position}]", one) for position, one in enumerate(values))


@dataclass(eq=False, repr=False)
class Text:
    """A string, or token ids; becomes a string or a tuple."""

    limit: int

    def __call__(self, name: str, value: Any) -> str | tuple[int, ...]:
        if isinstance(value, str):
            return value
        return TokenIds(self.limit)(name, _sequence(name, value, "a string or a list of token ids"))


@dataclass(eq=False, repr=False)
class Texts:
    """Several strings or lists of token ids, none empty; becomes a tuple."""

    limit: int

    def __call__(self, name: str, value: Any) -> tuple[str | tuple[int, ...], ...]:
        values = (
            (value,)
            if isinstance(value, str)
            else _sequence(name, value, "a list of strings or of token ids")
        )
        _check_count(name, values, self.limit)
        checked = tuple(Text(self.limit)(f"{name}[{position}]", one) for position, one in enumerate(values))
        for position, one in enumerate(checked):
            if not one:
                raise ValueError(f"{name}[{position}] must not be empty")
        return checked


@dataclass(eq=False, repr=False)
class TokenWeights:
    """A mapping from token ids to numbers of at most ``largest`` in size, or -inf; becomes a dict."""

    largest: float
    limit: int

    def __call__(self, name: str, value: Any) -> dict[int, float]:
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} must map token ids to numbers, got {shown(value)}")
        _check_count(name, value, self.limit)
        weight, biases = Real(-self.largest, self.largest), value.values()
        plain = all_in_range(tuple(value), _TOKEN_ID.low, _TOKEN_ID.high) and set(map(type, biases)) <= {
            float
        }
        if plain and all(-self.largest <= bias <= self.largest for bias in biases):
            return dict(value)
        return {
            _TOKEN_ID(f"a key of {name}", token): (
                -math.inf
                if isinstance(bias, RealNumber) and bias == -math.inf
                else weight(f"{name}[{token}]", bias)
            )
            for token, bias in value.items()
        }


_OF_TRANSFORMERS = ("LogitsProcessor", "LogitsWarper")
_TOKEN_ID = Integer(0, 2**31 - 1)


def all_in_range(values: Sequence[Any], low: int, high: int) -> bool:
    """Whether all are plain integers from ``low`` to ``high``: soon known, where checking each takes long."""
    return set(map(type, values)) <= {int} and (not values or (min(values) >= low and max(values) <= high))


def is_bool(value: Any) -> bool:
    """Whether a value is a bool of Python or NumPy."""
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")


def shown(value: Any) -> str:
    """A value and its type for an error message, shortened."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _sequence(name: str, value: Any, wanted: str) -> Sequence[Any]:
    collection = isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))
    if not (collection and _has_items(value)):
        raise TypeError(f"{name} must be {wanted}, got {shown(value)}")
    return list(value)


def _has_items(value: Any) -> bool:
    """Whether a collection is one: an array without dimensions, of any library, is a number."""
    return getattr(value, "ndim", 1) > 0


def _check_count(name: str, values: Sequence[Any] | Mapping[Any, Any], limit: int) -> None:
    if len(values) > limit:
        raise ValueError(f"{name} must have at most {limit} entries, got {len(values)}")
