"""Starts a service from the options of the command line, in this process or in several."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gpt2fast.serving.logs import LogFormat, set_up_logging
from gpt2fast.serving.server import Server, listen
from gpt2fast.serving.settings import Settings
from gpt2fast.serving.start import without_garbage_collection
from gpt2fast.serving.workers import Supervisor

if TYPE_CHECKING:
    from gpt2fast.model import GPT2


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A service and where it runs.

    Attributes
    ----------
    prepare : callable
        Makes what ``load`` needs, such as a conversion; called once, before any process is started.
    load : callable
        Returns the model; picklable.
    settings : Settings
        The service's settings.
    host, port
        The address that it listens on.
    workers : int
        The number of processes.
    grace : float
        Seconds that requests have to finish at shutdown.
    keep_alive : int
        Seconds that a connection may wait for its next request.
    log_format, log_level : str
        Format and level of the log.
    """

    prepare: Callable[[], object]
    load: Callable[[], GPT2]
    settings: Settings
    host: str
    port: int
    workers: int = 1
    grace: float = 30.0
    keep_alive: int = 75
    log_format: LogFormat = "text"
    log_level: str = "info"


def serve(launch: Launch, announce: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Parameters
    ----------
    launch : Launch
        The service.
    announce : callable
        Called with the port when requests are answered.

    Raises
    ------
    OSError
        The address is taken or not this machine's.
    ModelError, FileNotFoundError, ImportError
        The model can't be loaded: see :meth:`gpt2fast.GPT2.from_pretrained`.
    """
    # The sockets come first: a wrong address shows at once, and the rest may take minutes.
    listeners = _listeners(launch)
    port = listeners[0].getsockname()[1]
    set_up_logging(launch.log_format, launch.log_level)
    if launch.workers == 1:
        _serve_here(launch, listeners[0], lambda: announce(port))
        return
    launch.prepare()
    work = partial(_serve_here, launch)
    Supervisor(work, listeners, launch.grace, lambda: announce(port)).run()


def _listeners(launch: Launch) -> list[socket.socket]:
    """A socket for each worker, among which the system distributes connections; elsewhere they share one."""
    if launch.workers == 1 or not sys.platform.startswith("linux"):
        return [listen(launch.host, launch.port)] * launch.workers
    # The probe does not share the port, so that one that another service shares counts as taken.
    probe = listen(launch.host, launch.port)
    port = probe.getsockname()[1]
    probe.close()
    return [listen(launch.host, port, shared=True) for _ in range(launch.workers)]


def _serve_here(launch: Launch, listener: socket.socket, ready: Callable[[], None]) -> None:
    import asyncio

    with without_garbage_collection():
        from gpt2fast.serving.app import create_app

    set_up_logging(launch.log_format, launch.log_level)
    model = launch.load()
    with without_garbage_collection():
        app = create_app(model, launch.settings)
        asyncio.run(app.state.service.lifecycle.ready())
    Server(app, grace=launch.grace, keep_alive=launch.keep_alive, ready=ready).run([listener])
