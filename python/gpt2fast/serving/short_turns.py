"""Asks Linux to let a thread run soon after it is woken, beside threads that compute.

The event loop's thread has little to do at a time, but the model's threads keep all cores busy: it would wait
for the end of one's turn on a core before it could send a token. From Linux 6.12 on, a thread may ask for
shorter turns than others: it gets no more time in all, and gets it sooner
(https://docs.kernel.org/scheduler/sched-eevdf.html).
"""

from __future__ import annotations

import platform
import struct
import sys

# Numbers of the system calls sched_setattr and sched_getattr.
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
# struct sched_attr: size, policy, flags, nice, priority, runtime (the turn), deadline, period, two limits.
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
_RUNTIME = 5
_OTHER = 0  # the policy of threads without special rights
_NANOSECONDS = 100_000  # the shortest turn


def ask_for_short_turns(thread: int) -> bool:
    """Ask for short turns for the thread with this native id; whether the system knows them.

    Earlier kernels accept and ignore what is asked.
    """
    calls = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
    if calls is None:
        return False
    import ctypes

    set_attributes, get_attributes = calls
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    data = ctypes.create_string_buffer(_ATTRIBUTES.size)
    if syscall(get_attributes, thread, data, _ATTRIBUTES.size, 0) != 0:
        return False
    values = list(_ATTRIBUTES.unpack(data.raw))
    if values[1] != _OTHER:
        return False
    values[0], values[_RUNTIME] = _ATTRIBUTES.size, _NANOSECONDS
    return bool(syscall(set_attributes, thread, _ATTRIBUTES.pack(*values), 0) == 0)
