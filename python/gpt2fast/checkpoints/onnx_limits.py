"""Checks an ONNX message before a protobuf library makes objects of it.

A field of two bytes becomes an object of hundreds, and libraries differ in what they make of tags wider than
32 bits and of fields that they don't know: such messages are refused at every level.
"""

from __future__ import annotations

from typing import Any

from gpt2fast.errors import ModelError
from gpt2fast.storage.protobuf import MAX_TAG, MAX_TAG_BYTES, WireError, varint

#: Fields and messages of one file; the largest GPT-2, merged of two, has a third of these.
MAX_FIELDS = 1 << 20
MAX_MESSAGES = 1 << 18
#: Bytes in memory of numbers that take less than half of that in the file, where small ones are short.
MAX_SHORT_NUMBERS = 1 << 26
_MAX_DEPTH = 32
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
#: Bytes in memory of a number of variable length in the file, by protobuf's C++ types of fields.
_NUMBER_BYTES = {1: 4, 2: 8, 3: 4, 4: 8, 8: 4}
_CONTINUED = bytes(range(0x80, 0x100))


class OnnxLimits:
    """Counts what the messages of one file hold.

    Parameters
    ----------
    where : str
        The file, for errors.
    what : str
        What it should be, for errors.
    """

    def __init__(self, where: str, what: str = "an ONNX model") -> None:
        self._where, self._what = where, what
        self._fields = MAX_FIELDS
        self._messages = MAX_MESSAGES
        self._short_numbers = MAX_SHORT_NUMBERS
        # Number of a field -> the type of its message, or None, and the bytes of its numbers, if they are of
        # variable length, for each type of message.
        self._known: dict[str, dict[int, tuple[Any, int]]] = {}

    def check(self, data: bytes, kind: Any) -> None:
        """Check the content of a message.

        Parameters
        ----------
        data : bytes
            The message.
        kind : type
            Its class, such as ``onnx.NodeProto``.

        Raises
        ------
        ModelError
            It is malformed, has unknown fields, or holds too many of anything.
        """
        try:
            self._check(data, 0, len(data), kind.DESCRIPTOR, 0)
        except WireError as error:
            raise ModelError(f"{self._where}: not {self._what}, cut short or corrupt: {error}") from None

    def _check(self, data: bytes, position: int, stop: int, kind: Any, depth: int) -> None:
        known = self._known.get(kind.name)
        if known is None:
            known = {
                number: (field.message_type, _NUMBER_BYTES.get(field.cpp_type, 0))
                for number, field in kind.fields_by_number.items()
            }
            self._known[kind.name] = known
        self._messages -= 1
        if depth > _MAX_DEPTH or self._messages < 0:
            raise WireError(f"more than {MAX_MESSAGES} messages, or nested more than {_MAX_DEPTH} deep")
        while position < stop:
            self._fields -= 1
            if self._fields < 0:
                raise WireError(f"more than {MAX_FIELDS} fields")
            begin = position
            tag, position = varint(data, position, stop)
            number, wire = tag >> 3, tag & 7
            if tag > MAX_TAG or position - begin > MAX_TAG_BYTES or number not in known:
                raise WireError(f"a {kind.name} has the field {number}, which ONNX does not know")
            if wire == _BYTES:
                length, start = varint(data, position, stop)
                position = start + length
                message, number_bytes = known[number]
                if position <= stop and message is not None:
                    self._check(data, start, position, message, depth + 1)
                elif position <= stop and number_bytes:
                    self._check_packed(data[start:position], number_bytes)
            elif wire == _VARINT:
                _, position = varint(data, position, stop)
            elif wire in _SIZES:
                position += _SIZES[wire]
            else:
                raise WireError(f"a {kind.name} has a field of kind {wire}")
            if position > stop:
                raise WireError("a field is longer than its message")

    def _check_packed(self, numbers: bytes, number_bytes: int) -> None:
        """Count numbers that follow one another in one field, and are longer in memory than there."""
        expanded = number_bytes * len(numbers.translate(None, _CONTINUED))
        if expanded > 2 * len(numbers):
            self._short_numbers -= expanded
        if self._short_numbers < 0:
            raise WireError(f"more than {MAX_SHORT_NUMBERS} bytes of short numbers; store them as raw data")
