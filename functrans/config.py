"""Switches that hold for a `with` block, per thread.

`disable_jit` runs jitted functions as plain Python. `checking_leaks` makes every transformation
verify that no tracer outlives it. `checking_ir` checks every program after every pass.
`checking_nans` is the switch of `debug_nans` (see `interpreters/nan_checks`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Switches(threading.local):
    jit_disabled = False
    check_leaks = False
    check_ir = False
    check_nans = False


switches = _Switches()

unusual: dict[int, int] = {}
"""Threads in which a call of a jitted function may mean more than to run its machine code: inside
a transformation, a named axis or a switch; with the number of such blocks. Mostly it is empty, and
that is all that a call has to look at."""


def enter_unusual() -> int:
    """Begin a block in which calls look closer; `leave_unusual` takes what it returns."""
    thread = threading.get_ident()
    unusual[thread] = unusual.get(thread, 0) + 1
    return thread


def leave_unusual(thread: int) -> None:
    """End the block."""
    count = unusual.get(thread, 0)
    if count > 1:
        unusual[thread] = count - 1
    else:
        unusual.pop(thread, None)


@contextmanager
def _switch(name: str, value: bool) -> Iterator[None]:
    before = getattr(switches, name)
    setattr(switches, name, value)
    thread = enter_unusual()
    try:
        yield
    finally:
        leave_unusual(thread)
        setattr(switches, name, before)


def disable_jit(disable: bool = True):
    """Run jitted functions as plain Python inside the block, so that `print` and `pdb` work."""
    return _switch("jit_disabled", disable)


def checking_leaks():
    """Raise, inside the block, when a traced value outlives the transformation that made it."""
    return _switch("check_leaks", True)


def checking_ir():
    """Check every jaxpr after every transformation and compiler pass inside the block."""
    return _switch("check_ir", True)


def checking_nans(check: bool):
    """Let `debug_nans` blocks around look for nan inside the block, or not."""
    return _switch("check_nans", check)
