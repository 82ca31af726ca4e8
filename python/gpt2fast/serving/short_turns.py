"""Asks Linux to let a thread run soon after it is woken, beside threads that compute.

The event loop's thread has little to do at a time, but the model's threads keep all cores busy: it would wait
for the end of one's turn on a core before it could send a token. From Linux 6.12 on, a thread may ask for
shorter turns than others: it gets no more time in all, and gets it sooner
(https://docs.kernel.org/scheduler/sched-eevdf.html).
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys

# Numbers of the system calls sched_setattr and sched_getattr.
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
# struct sched_attr: size, policy, flags, nice, priority, runtime (the turn), deadline, period, two limits.
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
_RUNTIME = 5
_OTHER = 0  # the policy of threads without special rights
_SHORTEST = 100_000  # nanoseconds
_USUAL = 0
#: With more requests in work, steps would be interrupted so often that fewer tokens came in all.
FEW_REQUESTS = 2


class ShortTurns:
    """Short turns for a thread while few requests are in work.

    Parameters
    ----------
    thread : int
        The thread's native id.
    """

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._calls = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
        self._are_short = False

    def follow(self, requests: int) -> None:
        """Ask for what fits so many requests in work."""
        if self._calls is not None and (requests <= FEW_REQUESTS) != self._are_short:
            self._are_short = not self._are_short
            if not self._ask(_SHORTEST if self._are_short else _USUAL):
                self._calls = None  # the system refuses, as some containers do

    def _ask(self, nanoseconds: int) -> bool:
        """Whether the system has accepted it; kernels before 6.12 accept and ignore it."""
        assert self._calls is not None
        set_attributes, get_attributes = self._calls
        syscall = ctypes.CDLL(None, use_errno=True).syscall
        data = ctypes.create_string_buffer(_ATTRIBUTES.size)
        if syscall(get_attributes, self._thread, data, _ATTRIBUTES.size, 0) != 0:
            return False
        values = list(_ATTRIBUTES.unpack(data.raw))
        if values[1] != _OTHER:
            return False
        values[0], values[_RUNTIME] = _ATTRIBUTES.size, nanoseconds
        return bool(syscall(set_attributes, self._thread, _ATTRIBUTES.pack(*values), 0) == 0)
