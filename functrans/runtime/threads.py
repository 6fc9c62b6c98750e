"""The threads that large loops are shared among, and how many of them there are.

The pool is native code over one block of memory, `ft.pool`. A caller posts a job, a function of
`(env, begin, end)` and the range it is for, and takes pieces of the range itself; so do the workers
that are awake. Which thread takes a piece is left to chance, what a piece is is not: results do not
depend on the number of threads. Workers look for the next job for a while before they sleep.

While the pool is busy (another Python thread's program, a job inside a job) a loop runs in the
thread that came. Workers are started by the first job; after a fork the child has none and begins
anew. NumPy's OpenBLAS has threads of its own, which the same number limits.

Numba's pools would not do: the one on OpenMP ends a forked child that uses it, the portable
one ends the process when two threads use it at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
from types import TracebackType

from functrans.runtime import blas, codegen
from functrans.runtime.codegen import Unit

# Words of the block; what several threads write is on cache lines of its own.
LIMIT, STARTED, SHARE = 0, 1, 2
_BUSY, _OPEN, _TURN, _INSIDE, _NEXT, _JOB, _SLEEPERS, _MUTEX, _WAKE = range(8, 80, 8)
_WORDS = 88
# How often a worker looks for a job before it sleeps: about 15 us, more than between two loops of a
# program. Where cores are not free, looking costs the time that work is to have.
_LOOKS = 600
HAS_THREADS = sys.platform != "win32"
_PAUSE = platform.machine() in ("x86_64", "AMD64", "i686")


def _at(name: str, word: int) -> str:
    return f"  {name} = getelementptr i64, ptr @ft.pool, i64 {word}"


_PIECES = f"""
define internal void @{{name}}.take_pieces() nounwind {{{{
entry:
{_at("%next.at", _NEXT)}
{_at("%job", _JOB)}
  %function = load ptr, ptr %job
  %env.at = getelementptr i64, ptr %job, i64 1
  %env = load ptr, ptr %env.at
  %n.at = getelementptr i64, ptr %job, i64 2
  %n = load i64, ptr %n.at
  %size.at = getelementptr i64, ptr %job, i64 3
  %size = load i64, ptr %size.at
  br label %take
take:
  %piece = atomicrmw add ptr %next.at, i64 1 seq_cst
  %begin = mul i64 %piece, %size
  %some = icmp ult i64 %begin, %n
  br i1 %some, label %run, label %done
run:
  %limit = add i64 %begin, %size
  %end = call i64 @llvm.umin.i64(i64 %limit, i64 %n)
  call void %function(ptr %env, i64 %begin, i64 %end)
  br label %take
done:
  ret void
}}}}"""

_WORKER = f"""
define internal ptr @{{name}}.worker(ptr %id.pointer) nounwind {{{{
entry:
{_at("%turn.at", _TURN)}
{_at("%open.at", _OPEN)}
{_at("%inside.at", _INSIDE)}
{_at("%sleepers.at", _SLEEPERS)}
{_at("%mutex", _MUTEX)}
{_at("%wake", _WAKE)}
  %id = ptrtoint ptr %id.pointer to i64
  br label %wait
wait:
  %seen = phi i64 [ 0, %entry ], [ %turn, %idle ], [ %turn, %leave ]
  br label %look
look:
  %looks = phi i64 [ 0, %wait ], [ %looks.next, %again ]
  %now = load atomic i64, ptr %turn.at seq_cst, align 8
  %changed = icmp ne i64 %now, %seen
  br i1 %changed, label %go, label %again
again:
  {"call void @llvm.x86.sse2.pause()" if _PAUSE else ""}
  %looks.next = add i64 %looks, 1
  %patient = icmp ult i64 %looks.next, {_LOOKS}
  br i1 %patient, label %look, label %sleep
sleep:
  %locked = call i32 @pthread_mutex_lock(ptr %mutex)
  %more.sleepers = atomicrmw add ptr %sleepers.at, i64 1 seq_cst
  br label %asleep
asleep:
  %after = load atomic i64, ptr %turn.at seq_cst, align 8
  %awake = icmp ne i64 %after, %seen
  br i1 %awake, label %rise, label %rest
rest:
  %woken = call i32 @pthread_cond_wait(ptr %wake, ptr %mutex)
  br label %asleep
rise:
  %fewer.sleepers = atomicrmw sub ptr %sleepers.at, i64 1 seq_cst
  %unlocked = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %go
go:
  %turn = load atomic i64, ptr %turn.at seq_cst, align 8
  %limit = load atomic i64, ptr @ft.pool seq_cst, align 8
  %wanted = icmp ult i64 %id, %limit
  br i1 %wanted, label %enter, label %idle
idle:
  br label %wait
enter:
  %entered = atomicrmw add ptr %inside.at, i64 1 seq_cst
  %open = load atomic i64, ptr %open.at seq_cst, align 8
  %has.job = icmp ne i64 %open, 0
  br i1 %has.job, label %work, label %leave
work:
  call void @{{name}}.take_pieces()
  br label %leave
leave:
  %left = atomicrmw sub ptr %inside.at, i64 1 seq_cst
  br label %wait
}}}}"""

_START = f"""
define internal void @{{name}}.start(i64 %limit) nounwind {{{{
entry:
  %thread = alloca i64
{_at("%started.at", STARTED)}
  br label %look
look:
  %started = load i64, ptr %started.at
  %id = add i64 %started, 1
  %wanted = icmp ult i64 %id, %limit
  br i1 %wanted, label %create, label %done
create:
  %id.pointer = inttoptr i64 %id to ptr
  %failed = call i32 @pthread_create(ptr %thread, ptr null, ptr @{{name}}.worker, ptr %id.pointer)
  %created = icmp eq i32 %failed, 0
  br i1 %created, label %count, label %done
count:
  %id.thread = load i64, ptr %thread
  %detached = call i32 @pthread_detach(i64 %id.thread)
  store i64 %id, ptr %started.at
  br label %look
done:
  ret void
}}}}"""

_SHARE = f"""
define void @{{name}}(ptr %function, ptr %env, i64 %n, i64 %size) nounwind {{{{
entry:
  %limit = load atomic i64, ptr @ft.pool seq_cst, align 8
  %alone = icmp ule i64 %limit, 1
  %whole = icmp ule i64 %n, %size
  %serial = or i1 %alone, %whole
  br i1 %serial, label %here, label %claim
claim:
{_at("%busy.at", _BUSY)}
  %claim.result = cmpxchg ptr %busy.at, i64 0, i64 1 seq_cst seq_cst
  %claimed = extractvalue {{{{ i64, i1 }}}} %claim.result, 1
  br i1 %claimed, label %post, label %here
here:
  call void %function(ptr %env, i64 0, i64 %n)
  ret void
post:
  call void @{{name}}.start(i64 %limit)
{_at("%job", _JOB)}
  store ptr %function, ptr %job
  %env.at = getelementptr i64, ptr %job, i64 1
  store ptr %env, ptr %env.at
  %n.at = getelementptr i64, ptr %job, i64 2
  store i64 %n, ptr %n.at
  %size.at = getelementptr i64, ptr %job, i64 3
  store i64 %size, ptr %size.at
{_at("%next.at", _NEXT)}
{_at("%open.at", _OPEN)}
{_at("%turn.at", _TURN)}
{_at("%sleepers.at", _SLEEPERS)}
{_at("%inside.at", _INSIDE)}
  store atomic i64 0, ptr %next.at seq_cst, align 8
  store atomic i64 1, ptr %open.at seq_cst, align 8
  %turn = atomicrmw add ptr %turn.at, i64 1 seq_cst
  %sleepers = load atomic i64, ptr %sleepers.at seq_cst, align 8
  %asleep = icmp ne i64 %sleepers, 0
  br i1 %asleep, label %wake, label %work
wake:
{_at("%mutex", _MUTEX)}
{_at("%wake.at", _WAKE)}
  %locked = call i32 @pthread_mutex_lock(ptr %mutex)
  %woken = call i32 @pthread_cond_broadcast(ptr %wake.at)
  %unlocked = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %work
work:
  call void @{{name}}.take_pieces()
  store atomic i64 0, ptr %open.at seq_cst, align 8
  br label %wait
wait:
  %looks = phi i64 [ 0, %work ], [ %looks.next, %pause ], [ 0, %yield ]
  %inside = load atomic i64, ptr %inside.at seq_cst, align 8
  %finished = icmp eq i64 %inside, 0
  br i1 %finished, label %done, label %pause
pause:
  {"call void @llvm.x86.sse2.pause()" if _PAUSE else ""}
  %looks.next = add i64 %looks, 1
  %patient = icmp ult i64 %looks.next, {_LOOKS}
  br i1 %patient, label %wait, label %yield
yield:
  %yielded = call i32 @sched_yield()
  br label %wait
done:
  store atomic i64 0, ptr %busy.at seq_cst, align 8
  ret void
}}}}"""

_DECLARED = f"""declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sched_yield()
declare i64 @llvm.umin.i64(i64, i64)
{"declare void @llvm.x86.sse2.pause()" if _PAUSE else ""}"""

_TEXT = "\n".join((_DECLARED, _PIECES, _WORKER, _START, _SHARE))

# `ft_shared(function, env, n, size)` for native code: the pool runs `function(env, begin, end)`
# over pieces, or, while it is not prepared, the caller over the whole range.
POOL = "@ft.pool = external global i64"
SHARED = f"""define internal void @ft_shared(ptr %function, ptr %env, i64 %n, i64 %size)
    {codegen.COLD} {{
{_at("%share.at", SHARE)}
  %share = load ptr, ptr %share.at
  %ready = icmp ne ptr %share, null
  br i1 %ready, label %together, label %alone
together:
  call void %share(ptr %function, ptr %env, i64 %n, i64 %size)
  ret void
alone:
  call void %function(ptr %env, i64 0, i64 %n)
  ret void
}}"""
# Not optimized, which would take 25 ms: what takes time here is waiting.
_UNIT = Unit(_TEXT, lambda name: [POOL, _TEXT.format(name=name)], is_optimized=False)


# ---------------------------------------------------------------------------- the block


def _aligned_words(count: int) -> ctypes.Array[ctypes.c_int64]:
    memory = ctypes.create_string_buffer(8 * count + 64)
    return (ctypes.c_int64 * count).from_buffer(memory, -ctypes.addressof(memory) % 64)


_pool = _aligned_words(_WORDS)
codegen.use_symbol("ft.pool", ctypes.addressof(_pool))


def _reset() -> None:
    """An unused pool: what a process begins with, and a forked child."""
    if not HAS_THREADS:
        return
    kept = _pool[LIMIT], _pool[SHARE]
    ctypes.memset(_pool, 0, 8 * _WORDS)
    library, base = ctypes.CDLL(None), ctypes.addressof(_pool)
    library.pthread_mutex_init(ctypes.c_void_p(base + 8 * _MUTEX), None)
    library.pthread_cond_init(ctypes.c_void_p(base + 8 * _WAKE), None)
    _pool[LIMIT], _pool[SHARE] = kept


def units() -> list[Unit]:
    """What `prepare` brings into the process."""
    return [_UNIT] if HAS_THREADS else []


@functools.cache
def prepare() -> None:
    """Let large loops be shared from now on: programs that have some call this."""
    if HAS_THREADS:
        _pool[SHARE] = codegen.addresses([_UNIT])[0]


def _default() -> int:
    for variable in ("FUNCTRANS_NUM_THREADS", "OMP_NUM_THREADS"):
        with contextlib.suppress(KeyError, ValueError):
            return max(1, int(os.environ[variable]))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_reset()
_pool[LIMIT] = _default()
if HAS_THREADS:
    os.register_at_fork(after_in_child=_reset)


# ---------------------------------------------------------------------------- for users


class threads:
    """Limit compiled programs to `n` threads, NumPy's OpenBLAS among them, in the whole process.

    A call is enough; used in a `with` statement, the limit ends with its block. At first there are
    as many as the process may use cores, or `$FUNCTRANS_NUM_THREADS`, or `$OMP_NUM_THREADS`.

    >>> from functrans import threads
    >>> with threads(1):
    ...     threads.limit()
    1

    Raises ValueError for less than one thread.
    """

    def __init__(self, n: int):
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"threads takes a number of threads of at least 1, got {n!r}.")
        self._before = _pool[LIMIT], blas.limit_threads(n)
        _pool[LIMIT] = n

    @staticmethod
    def limit() -> int:
        """How many threads programs may use now."""
        return _pool[LIMIT]

    def __enter__(self) -> threads:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _pool[LIMIT] = self._before[0]
        if self._before[1] is not None:
            blas.limit_threads(self._before[1])

    def __repr__(self) -> str:
        return f"threads({self.limit()})"
