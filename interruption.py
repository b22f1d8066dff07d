"""SIGTERM and Ctrl-C: a script ends where it can go on later, with a line that says how, and without a traceback.

A signal raises `Interrupted` at once, unless work in progress would be lost: after `defer` it waits until the work asks
for it by `pending`. What launchers, Slurm or `timeout` send twice is one request; a signal that comes later than
`SAME_REQUEST_S` after the first ends the process on the spot.
"""

import multiprocessing.util
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_S = 2.0
ASK_AGAIN_S = 0.01  # whether a dropped signal can be sent again


class Interrupted(BaseException):
    """A signal asks this process to end. It is no `Exception`, so that nothing takes it for a failure."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.exit_code = 128 + signum


@dataclass
class _Request:
    signum: int | None = None
    time_s: float = 0.0
    is_deferred: bool = False
    advice: str = "run the same command again"


_request = _Request()
_report_others = sys.unraisablehook


def listen() -> None:
    """From here on, and until the process ends, signals are requests. One that the process was told to ignore, as in
    the background of a shell script, stays ignored.

    One of several processes may wait for the others where no Python runs, and so no request would be seen: unless
    signals are deferred, the system ends it.
    """
    global _report_others
    forget()
    if sys.unraisablehook is not _raise_again:
        _report_others, sys.unraisablehook = sys.unraisablehook, _raise_again
    _install()


def forget() -> None:
    """As if no signal had come."""
    global _request
    _request = _Request()


def _install() -> None:
    waits_for_others = int(os.environ.get("WORLD_SIZE", 1)) > 1
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL if waits_for_others and not _request.is_deferred else _take)


def _raise_again(unraisable) -> None:
    """Python drops an exception where it cannot be raised, as while a generator is disposed of: the request would be
    lost, and its traceback shown. It comes again when that is done."""
    error = unraisable.exc_value
    if not isinstance(error, Interrupted):
        _report_others(unraisable)
        return
    threading.Thread(target=_send_again, args=(error.signum,), daemon=True).start()


def _send_again(signum: int) -> None:
    """Wakes the main thread also where it waits, which Windows does not know."""
    main_thread = threading.main_thread().ident
    while _runs_hook(sys._current_frames().get(main_thread)):  # in which exceptions are dropped for good
        time.sleep(ASK_AGAIN_S)
    _request.signum = None
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main_thread, signum)
    else:
        signal.raise_signal(signum)


def _runs_hook(frame) -> bool:
    while frame is not None and frame.f_code is not _raise_again.__code__:
        frame = frame.f_back
    return frame is not None


def _defer(is_deferred: bool) -> None:
    _request.is_deferred = is_deferred
    _install()


def serve_parent(*ignored: int) -> None:
    """For a process that works for another: it leaves these signals to that one, and ends when that one has, also
    killed."""
    for signum in ignored:
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def end_servants_at_exit() -> None:
    """For whoever starts processes that `serve_parent` and ignore SIGTERM: by itself, multiprocessing would send that
    when this process ends, and wait."""
    multiprocessing.util.Finalize(None, _end_servants, exitpriority=0)


def _end_servants() -> None:
    servants = [process for process in multiprocessing.active_children() if process.daemon]
    if servants and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch takes the end of one for a failure
    for process in servants:
        process.kill()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def defer() -> None:
    """From here on the work asks for signals itself."""
    _defer(True)


def ignore() -> None:
    """From here on signals come too late: Python would let them change the exit code while it ends."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def advise(advice: str) -> None:
    """What the user has to do so that a run which is stopped now goes on."""
    _request.advice = advice


def advice() -> str:
    return _request.advice


def pending() -> int | None:
    """The signal that asks this process to end, if one does."""
    return _request.signum


@contextmanager
def at_once():
    """Also a decorator: inside, nothing would be lost, and signals are not deferred; nor is one that waits."""
    was_deferred = _request.is_deferred
    _defer(False)
    try:
        if _request.signum:
            raise Interrupted(_request.signum)
        yield
    finally:
        _defer(was_deferred)


@contextmanager
def peers_may_leave():
    """After a signal, what breaks breaks because another process, or one that loads images, has gone already."""
    try:
        yield
    except RuntimeError:
        if not _request.signum:
            raise
        raise Interrupted(_request.signum) from None


def _take(signum: int, frame) -> None:
    if _request.signum is None:
        _request.signum, _request.time_s = signum, time.monotonic()
        if not _request.is_deferred:
            raise Interrupted(signum)
    elif time.monotonic() - _request.time_s > SAME_REQUEST_S:
        signal.signal(signum, signal.SIG_DFL)
        signal.raise_signal(signum)
