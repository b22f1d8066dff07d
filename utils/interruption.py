"""SIGTERM and Ctrl-C: a script ends where it can be resumed, prints one line that says how, and shows no traceback.

A signal raises `Interrupted` immediately, unless work in progress would be lost: after `defer`, the work polls
`pending` instead. Launchers, Slurm and `timeout` may send a signal twice: signals within `SAME_REQUEST_S` are one
request, a later one ends the process on the spot.
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
RESUME_ADVICE = "run the same command again, a training with --resume"

# ENOENT and EEXIST are missing on purpose: they may as well be faults of the program
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNUSABLE_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EIO, errno.ESTALE)


class Interrupted(BaseException):
    """A signal asks this process to end. Not an `Exception`, so that no handler of failures catches it."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@dataclass
class _Request:
    signum: int | None = None
    time_s: float = 0.0
    is_deferred: bool = False
    resume_hint: str = "run the same command again"


_request = _Request()


def listen() -> None:
    """Forget earlier signals and settings, and treat SIGTERM and SIGINT as requests to stop from now on."""
    global _request
    _request = _Request()
    _install_handlers()


def defer() -> None:
    """Stop raising `Interrupted`: from now on the work polls `pending`."""
    _request.is_deferred = True
    _install_handlers()


def pending() -> int | None:
    """The signal that asks this process to end, or None."""
    return _request.signum


@contextmanager
def at_once():
    """Context manager or decorator inside which signals, including a pending one, raise `Interrupted` immediately."""
    was_deferred, _request.is_deferred = _request.is_deferred, False
    _install_handlers()
    try:
        if _request.signum:
            raise Interrupted(_request.signum)
        yield
    finally:
        _request.is_deferred = was_deferred
        _install_handlers()


def set_resume_hint(hint: str) -> None:
    """Set the hint that is printed if the run is stopped from now on."""
    _request.resume_hint = hint


def ignore_signals(*signums: int) -> None:
    for signum in signums:
        signal.signal(signum, signal.SIG_IGN)


def exit_with_parent(*ignored: int) -> None:
    """Make a worker process leave the signals `ignored` to its parent, and exit when the parent ends or is killed."""

    def wait_for_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    ignore_signals(*ignored)
    threading.Thread(target=wait_for_parent, daemon=True).start()


def kill_workers_at_exit() -> None:
    """Kill daemonic worker processes when this process exits. Multiprocessing would send them SIGTERM, which loader
    workers ignore, and wait forever."""

    def kill_workers():
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler reports a killed worker as a failure
        for process in multiprocessing.active_children():
            if process.daemon:
                process.kill()

    multiprocessing.util.Finalize(None, kill_workers, exitpriority=0)


def run_script(main, args) -> int:
    """Call `main(args)` and return the exit code of the script: what `main` returned, 0 for None; 2 after an
    `InputError`, printed as one line; 128 + the signal that stopped it, after one line that says how to resume.

    Other exceptions are faults of the program and propagate.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a console that lacks a letter must not stop a run
    listen()
    try:
        code = call_main(main, args)
        sys.stdout.flush()
        ignore_signals(*SIGNALS)  # a signal during interpreter shutdown would change the exit code
        return code
    except InputError as error:
        # an error of a loader worker arrives wrapped in its traceback; the last line is the message
        line = re.sub(r"^formats\.errors\.\w+: ", "", str(error).strip().splitlines()[-1])
        message, code = f"error: {line}", 2
    except BrokenPipeError:  # the reader of stdout has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # the exit code that a shell reports for SIGPIPE
    except Interrupted as stop:
        message, code = f"stopped by {stop}: {_request.resume_hint}", stop.exit_code
        if os.environ.get("RANK", "0") != "0":
            return code
    print(message, file=sys.stderr)  # outside of the handlers: progress bars, held by the traceback, are closed now
    return code


def call_main(main, args) -> int:
    """Call `main(args)` and return what it returns, 0 for None.

    Disk errors become `InputError`. A RuntimeError after a signal becomes `Interrupted`: its cause is another process
    or a loader worker that has already ended.
    """
    try:
        with explain_disk_errors():
            return main(args) or 0
    except RuntimeError:
        if _request.signum:
            raise Interrupted(_request.signum) from None
        raise


@contextmanager
def explain_disk_errors():
    """Turn an OSError of a full or failing disk, or of an unusable path, into an `InputError` with a way out."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK + UNUSABLE_PATH:
            raise
        way_out = "free disk space" if error.errno in FULL_DISK else "name another file or folder, or repair this one"
        raise InputError(f"{error.filename or 'disk'}: {error.strerror}: {way_out}, then {RESUME_ADVICE}") from error


def _install_handlers() -> None:
    """Handle all signals but those that the process ignores, as in the background of a shell script.

    One of several distributed processes keeps the system's default action unless signals are deferred: Python handlers
    do not run while it waits for the others in a collective operation.
    """
    use_default = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not _request.is_deferred
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL if use_default else _handle_signal)


def _handle_signal(signum: int, frame) -> None:
    if _request.signum is None:
        _request.signum, _request.time_s = signum, time.monotonic()
        if not _request.is_deferred:
            raise Interrupted(signum)
    elif time.monotonic() - _request.time_s > SAME_REQUEST_S:
        signal.signal(signum, signal.SIG_DFL)
        signal.raise_signal(signum)
