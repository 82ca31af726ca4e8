"""A pickle machine for tensors only: it builds containers, describes tensors, and calls nothing.

Python's :mod:`pickletools` parses the opcodes. The calls that describe tensors are PyTorch's
``torch._utils._rebuild_tensor_v2`` and ``_rebuild_parameter``.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import IO, Any, cast

from gpt2fast.checkpoints.binary_file import BoundedReader
from gpt2fast.checkpoints.stored_tensor import STORED_DTYPES
from gpt2fast.errors import ModelError

#: The largest GPT-2 (580 tensors) takes some 30,000 opcodes.
_MAX_OPCODES = 200_000
_MAX_RANK = 8
#: The most values of a tuple and the tuples in it; a state of a random generator has 627.
_MAX_DEPTH = 16
_MAX_LEAVES = 1 << 16
_STORAGE_DTYPES = {
    ("torch", "DoubleStorage"): "F64",
    ("torch", "FloatStorage"): "F32",
    ("torch", "HalfStorage"): "F16",
    ("torch", "BFloat16Storage"): "BF16",
    ("torch", "LongStorage"): "I64",
    ("torch", "IntStorage"): "I32",
    ("torch", "ShortStorage"): "I16",
    ("torch", "CharStorage"): "I8",
    ("torch", "ByteStorage"): "U8",
    ("torch", "BoolStorage"): "BOOL",
}
_ORDERED_DICT = ("collections", "OrderedDict")
_REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETER = ("torch._utils", "_rebuild_parameter")
# Describes tensors of formats that have no class of storage, such as those of eight bits.
_OTHER_NUMBERS = "_rebuild_tensor_v3"
#: What training programs save beside tensors; it is neither looked up nor made.
_IGNORED = {
    ("argparse", "Namespace"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("pytorch_lightning.utilities.parsing", "AttributeDict"),
    ("lightning.pytorch.utilities.parsing", "AttributeDict"),
    ("lightning_fabric.utilities.data", "AttributeDict"),
    ("lightning.fabric.utilities.data", "AttributeDict"),
}
_ADMITTED = {*_STORAGE_DTYPES, _ORDERED_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER, *_IGNORED}


@dataclass(frozen=True)
class Storage:
    """A run of ``count`` numbers somewhere in the file."""

    key: str
    dtype_name: str
    count: int

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.count * STORED_DTYPES[self.dtype_name].itemsize


@dataclass(frozen=True)
class TensorView:
    """A strided view of a storage, checked to stay inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Symbol:
    """The name of a class or function; it is compared, never looked up."""

    name: tuple[str, str]


class _Tuple(tuple[Any, ...]):
    """A tuple that knows how deep it is, and of how many values with those of the tuples in it."""

    depth: int
    leaves: int


class _IgnoredObject:
    """Stands for an object of a class in ``_IGNORED``."""


class _Mark:
    """The stack's mark."""


def read_pickle(reader: BoundedReader, storages: dict[str, Storage], where: str) -> Any:
    """Run one pickle from the reader's position to its STOP.

    Parameters
    ----------
    reader : BoundedReader
        Left at the end of the pickle.
    storages : dict
        Filled with the storages that the pickle refers to.
    where : str
        The file, for errors.

    Raises
    ------
    ModelError
        The pickle is corrupt, or holds anything but containers, plain values and tensors.
    """
    machine = _Machine(storages, where)
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", reader)):
            count += 1
            if count > _MAX_OPCODES:
                raise ModelError(f"{where}: the pickle is longer than {_MAX_OPCODES} opcodes")
            machine.run(opcode.name, argument)
        return machine.result()
    except ModelError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{where}: the pickle is corrupt: {error}") from error


class _Machine:
    """The stack and memo of a pickle being run."""

    def __init__(self, storages: dict[str, Storage], where: str) -> None:
        self._storages = storages
        self._where = where
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        """The pickle's value."""
        (value,) = self._stack
        return value

    def run(self, name: str, argument: Any) -> None:
        """Run one opcode."""
        if name in _PUSHES_ARGUMENT:
            self._stack.append(argument)
        elif name in _PUSHES_CONSTANT:
            self._stack.append(_PUSHES_CONSTANT[name]())
        elif name in _MEMO_WRITES:
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._stack[-1]
        elif name in _MEMO_READS:
            self._stack.append(self._memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ModelError(
                f"{self._where}: the pickle's operation {name} is refused: tensors do not need it"
            )

    def _pop_to_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _Mark:
                items = self._stack[index + 1 :]
                del self._stack[index:]
                return items
        raise ValueError("a mark is missing")

    def _tuple(self, length: int) -> None:
        self._push_tuple([self._stack.pop() for _ in range(length)][::-1])

    def _push_tuple(self, items: list[Any]) -> None:
        # A tuple of a tuple twice, and so on, takes little memory, and hashing or printing it takes for ever.
        inner = [item for item in items if isinstance(item, _Tuple)]
        value = _Tuple(items)
        value.depth = 1 + max((item.depth for item in inner), default=0)
        value.leaves = 1 + len(items) - len(inner) + sum(item.leaves for item in inner)
        if value.depth > _MAX_DEPTH or value.leaves > _MAX_LEAVES:
            raise ValueError(
                f"tuples nested more than {_MAX_DEPTH} deep, or of more than {_MAX_LEAVES} values"
            )
        self._stack.append(value)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, _IgnoredObject):
            return
        if type(target) is not dict:
            raise ValueError("an item is set in something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise ValueError("a key is neither text nor a number")
            target[key] = value

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("an item is appended to something that is not a list")
        target.extend(items)

    def _symbol(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name is not text")
        if (module, name) not in _ADMITTED:
            raise ModelError(f"{self._where}: {_refusal(module, name)}")
        self._stack.append(_Symbol((module, name)))

    def _stack_symbol(self) -> None:
        name = self._stack.pop()
        self._symbol(self._stack.pop(), name)

    def _reduce(self) -> None:
        arguments = self._stack.pop()
        function = self._stack.pop()
        if not isinstance(function, _Symbol) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is not a function")
        if function.name in _IGNORED:
            self._stack.append(_IgnoredObject())
        elif function.name == _ORDERED_DICT and not arguments:
            self._stack.append({})
        elif function.name == _REBUILD_TENSOR:
            self._stack.append(_tensor_view(*arguments[:4]))
        elif function.name == _REBUILD_PARAMETER and isinstance(arguments[0], TensorView):
            self._stack.append(arguments[0])
        else:
            raise ValueError(f"the call of {'.'.join(function.name)} has unknown arguments")

    def _new_object(self) -> None:
        self._stack.pop()
        cls = self._stack.pop()
        if not isinstance(cls, _Symbol) or cls.name not in _IGNORED:
            raise ValueError("an object of an unknown class")
        self._stack.append(_IgnoredObject())

    def _build(self) -> None:
        # The attributes of a state dictionary are its `_metadata` of module versions: nothing to keep.
        self._stack.pop()
        if type(self._stack[-1]) is not dict and not isinstance(self._stack[-1], _IgnoredObject):
            raise ValueError("attributes are set on something that is not a dictionary")

    def _persistent(self) -> None:
        identifier = self._stack.pop()
        if not isinstance(identifier, tuple):
            raise ValueError("a persistent id is not a tuple")
        kind, symbol, key, _location, count, *view = identifier
        if kind != "storage" or not isinstance(symbol, _Symbol) or symbol.name not in _STORAGE_DTYPES:
            raise ValueError("a persistent id is not a storage")
        if not isinstance(key, str) or type(count) is not int or count < 0 or any(view):
            raise ValueError("a storage is described wrongly")
        storage = Storage(key, _STORAGE_DTYPES[symbol.name], count)
        if self._storages.setdefault(key, storage) != storage:
            raise ValueError(f"the storage {key!r} is described in two ways")
        self._stack.append(storage)


def _refusal(module: str, name: str) -> str:
    """What to say of a name that is not admitted."""
    if module.split(".")[0] == "torch" and (name.endswith("Storage") or name == _OTHER_NUMBERS):
        return (
            f"a tensor's numbers ({name[:80]}) are in a format that is not read; save the model with "
            f"float32, float16 or bfloat16 weights"
        )
    return (
        f"the pickle refers to {module[:80]}.{name[:80]}, which is no part of a tensor; nothing of it was "
        f"run. Save the weights alone, by torch.save(model.state_dict(), PATH)"
    )


def _tensor_view(storage: Any, offset: Any, shape: Any, strides: Any) -> TensorView:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise ValueError("a tensor is described wrongly")
    if len(shape) != len(strides) or len(shape) > _MAX_RANK:
        raise ValueError(f"a tensor has {len(shape)} axes and {len(strides)} strides")
    if not all(type(value) is int and value >= 0 for value in (offset, *shape, *strides)):
        raise ValueError("a tensor's offset, shape or stride is not a natural number")
    empty = 0 in shape
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if empty or last >= storage.count:
        raise ValueError(
            f"a tensor of shape {list(shape)}, strides {list(strides)} and offset {offset} is empty "
            f"or reaches past its storage of {storage.count} numbers"
        )
    elements = 1
    for size in shape:
        elements *= size
    if elements > storage.count:
        raise ValueError(f"a tensor of shape {list(shape)} repeats numbers of its storage of {storage.count}")
    return TensorView(storage, offset, tuple(shape), tuple(strides))


_PUSHES_ARGUMENT = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        # Strings of a pickle written by Python 2.
        *("SHORT_BINSTRING", "BINSTRING"),
    )
)
_PUSHES_CONSTANT: dict[str, Any] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _Mark,
}
_MEMO_WRITES = frozenset(("BINPUT", "LONG_BINPUT", "MEMOIZE"))
_MEMO_READS = frozenset(("BINGET", "LONG_BINGET"))
_ACTIONS: dict[str, Any] = {
    "TUPLE": lambda machine, _: machine._push_tuple(machine._pop_to_mark()),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "SETITEM": lambda machine, _: machine._set_items([machine._stack.pop(-2), machine._stack.pop()]),
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_to_mark()),
    "APPEND": lambda machine, _: machine._append([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine._symbol(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._stack_symbol(),
    "REDUCE": lambda machine, _: machine._reduce(),
    "NEWOBJ": lambda machine, _: machine._new_object(),
    "BUILD": lambda machine, _: machine._build(),
    "BINPERSID": lambda machine, _: machine._persistent(),
}
