"""SIGTERM and Ctrl-C: a script ends where it can go on later, with a line that says how, and without a traceback.

A signal raises `Interrupted` at once, unless work in progress would be lost: after `defer` it waits until the work asks
for it by `pending`. What launchers, Slurm or `timeout` send twice is one request; a signal that comes later than
`SAME_REQUEST_S` after the first ends the process on the spot.
"""

import errno
import multiprocessing.util
import os
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

from formats.errors import InputError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_S = 2.0
ASK_AGAIN_S = 0.01  # whether a dropped signal can be sent again

OTHER_PLACE = "name another file or folder"
MAKE_ROOM = "make room, then run the same command again, a training with --resume; what was written before is complete"
LOOK_AT_DISK = "look at the disk or the network, then run the same command again, a training with --resume"
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), MAKE_ROOM),
    **dict.fromkeys((errno.EIO, errno.ESTALE), LOOK_AT_DISK),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), f"{OTHER_PLACE}, or allow writing there"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR), OTHER_PLACE),
}  # a file that is not there, or is there already, would as well be a fault of the program


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


def run_script(main, args) -> int:
    """Calls `main(args)`; returns the exit code: what it returned, 0 for nothing, 2 after printing an `InputError` in
    one line, or 128 + the signal that stopped it. Every other exception passes through with its traceback: it is a
    fault of the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that lacks a letter must not stop a run
    listen()
    try:
        code = call(main, args)
        sys.stdout.flush()
        ignore()  # the process ends by itself now
        return code
    except InputError as error:
        # one met by a loader's worker process arrives wrapped in its traceback; the last line is the message
        line = re.sub(r"^formats\.errors\.\w+: ", "", str(error).strip().splitlines()[-1])
        message, code = f"error: {line}", 2
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 128 + 13  # as a shell tells of SIGPIPE
    except Interrupted as stop:
        message, code = f"stopped by {stop}: {advice()}", stop.exit_code
        if os.environ.get("RANK", "0") != "0":
            return code
    # here, where the frames of the exception are gone, and with them progress bars, on whose line this would stand
    print(message, file=sys.stderr)
    return code


def _nobody_reads() -> bool:
    """Whether who read the output has gone, as `head` does when it has seen enough; what is left goes nowhere then."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def call(main, args) -> int:
    """Calls `main(args)`, where disks may fail and other processes end; what it returns, 0 for nothing."""
    with peers_may_leave(), disk_errors_explained():
        return main(args) or 0


@contextmanager
def disk_errors_explained():
    """A full, read-only or failing disk, a lost permission, a file for a folder: an `InputError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        name = f"{error.filename}: " if error.filename else ""
        raise InputError(f"{name}{error.strerror}: {ADVICE[error.errno]}") from error
