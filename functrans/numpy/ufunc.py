"""What a NumPy ufunc is on tracers: NumPy's loop dtypes, broadcasting, then a rule made of ops.

The dtypes of a loop come from NumPy itself (`ufunc.resolve_dtypes`), so promotion and the errors
for operands that a ufunc does not take are NumPy's. `ufuncs.py` is the table of rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.core import Tracer, current_trace, eval_trace
from functrans.numpy import promotion
from functrans.numpy.promotion import broadcast, cast, key, operand

_BOOL = dtypes.bool_
_ARRAYS = (np.ndarray, np.generic)
_PYTHON_SCALARS = frozenset(dtypes.PYTHON_SCALARS)


class Ufunc:
    """A NumPy ufunc that can be traced: one row of the table in `ufuncs.py`.

    `rule` takes operands of the dtypes of NumPy's loop, broadcast (numbers may stay numbers), and
    gives the result in the loop's dtype, or a tuple of results. On plain arrays, with nothing being
    traced, calling it is calling NumPy's ufunc.

    `where=` without `out=` gives 0 where NumPy leaves the result undefined. `out=` cannot be
    traced: arrays do not change.
    """

    def __init__(self, ufunc: np.ufunc, rule: Callable[..., Any], name: str | None = None):
        self.ufunc = ufunc
        self.rule = rule
        self.__name__ = self.__qualname__ = name or ufunc.__name__
        self.__doc__ = f"`numpy.{self.__name__}`, traceable."
        self.nin = ufunc.nin
        self.nout = ufunc.nout
        self.nargs = ufunc.nargs
        self.identity = ufunc.identity
        self.reducer: Callable[..., Any] | None = None
        self.accumulator: Callable[..., Any] | None = None
        self._loops: dict[Any, tuple[np.dtype, ...]] = {}

    def __call__(self, *args: Any, **options: Any) -> Any:
        if current_trace() is eval_trace:
            return self.ufunc(*args, **options)
        return self.traced(*args, **options)

    def traced(self, *args: Any, **options: Any) -> Any:
        """The call on tracers, or while something is traced."""
        if options or len(args) != self.nin:
            return self._with_options(args, **options)
        return self._apply(args)[0]

    def operator(self, *args: Any) -> Any:
        """The call as a Python operator: of weak operands alone the result is weak too."""
        out, weak = self._apply(args)
        return keep_weak(out) if weak else out

    def _apply(self, args: Any) -> tuple[Any, bool]:
        """The result, and whether all operands are weak."""
        keys = _keys(args)
        if keys is None:
            args = tuple(map(operand, args))
            keys = tuple(map(key, args))
        loop = self._loops.get(keys) or self.loop(keys)
        xs = [x if k is d else cast(x, d) for x, k, d in zip(args, keys, loop, strict=False)]
        if len(xs) == 2:
            a, b = xs[0].shape, xs[1].shape
            if a != b and a and b:
                xs = broadcast(*xs)
        return self.rule(*xs), all(type(k) is type for k in keys)

    def loop(self, keys: tuple[promotion.Key, ...]) -> tuple[np.dtype, ...]:
        """The dtypes of NumPy's loop for operands of these dtypes or weak Python types."""
        loop = self._loops.get(keys)
        if loop is None:
            loop = self._loops[keys] = self.resolve(keys)
        return loop

    def resolve(self, keys: Any, **options: Any) -> tuple[np.dtype, ...]:
        """Ask NumPy for the loop."""
        types = tuple(_BOOL if k is bool else k for k in keys)
        return self.ufunc.resolve_dtypes((*types, *(None,) * self.nout), **options)

    def _refuse_extra(self, args: Any) -> None:
        if len(args) != self.nin:
            self._refuse_out(args[self.nin :])
            raise TypeError(f"{self.__name__}() takes {self.nin} operands, got {len(args)}.")

    def _refuse_out(self, out: Any) -> None:
        if out is None or all(o is None for o in (out if isinstance(out, tuple) else (out,))):
            return
        raise TypeError(
            f"numpy.{self.__name__}(..., out=...) cannot be traced: arrays are not written in "
            f"place here.\n  Use the result, y = {self.__name__}(x); for out= with where=, write "
            f"np.where(condition, {self.__name__}(x), other)."
        )

    def _with_options(
        self,
        args: Any,
        *,
        where: Any = True,
        out: Any = None,
        dtype: Any = None,
        casting: str = "same_kind",
        order: str = "K",
        subok: bool = True,
        signature: Any = None,
    ) -> Any:
        self._refuse_extra(args)
        self._refuse_out(out)
        args = tuple(map(operand, args))
        keys = tuple(map(key, args))
        if dtype is not None:
            signature = (None,) * self.nin + (np.dtype(dtype),) * self.nout
        if signature is None:
            loop = self.loop(keys)
        else:
            loop = self.resolve(keys, signature=signature, casting=casting)
        args = map(cast, args, loop)
        result = self.rule(*broadcast(*args))
        if where is True:
            return result
        return _masked(where, result)

    # ------------------------------------------------------------------ methods of ufuncs

    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None,
               keepdims: bool = False, initial: Any = None, where: Any = True) -> Any:  # fmt: skip
        """Combine the elements along `axis` (default 0; None: all)."""
        if current_trace() is eval_trace and not isinstance(array, Tracer):
            given = {} if initial is None else {"initial": initial}
            return self.ufunc.reduce(
                array, axis, dtype, out, keepdims=keepdims, where=where, **given
            )
        self._refuse_out(out)
        if self.reducer is None:
            raise self._no_method("reduce", "sum, prod, max, min, any, all or logsumexp")
        return self.reducer(
            array, axis=axis, dtype=dtype, keepdims=keepdims, initial=initial, where=where
        )

    def accumulate(self, array: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        """The running combination of the elements along `axis`."""
        if current_trace() is eval_trace and not isinstance(array, Tracer):
            return self.ufunc.accumulate(array, axis, dtype, out)
        self._refuse_out(out)
        if self.accumulator is None:
            raise self._no_method("accumulate", "cumsum, cumprod or lax.cummax")
        return self.accumulator(array, axis=axis, dtype=dtype)

    def outer(self, a: Any, b: Any, /, **options: Any) -> Any:
        """The function of all pairs of elements: out[i, j] = f(a[i], b[j])."""
        if self.nin != 2:
            raise ValueError("outer product only supported for binary functions")
        a, b = promotion.operand(a), promotion.operand(b)
        if (
            current_trace() is eval_trace
            and not isinstance(a, Tracer)
            and not isinstance(b, Tracer)
        ):
            return self.ufunc.outer(a, b, **options)
        if np.ndim(a) and np.ndim(b):
            a = ops.reshape(a, shape=np.shape(a) + (1,) * np.ndim(b))
        return self.traced(a, b, **options)

    def at(self, array: Any, indices: Any, *values: Any) -> None:
        """NumPy's in-place update; on traced values an error that says what to write."""
        if not any(isinstance(v, Tracer) for v in (array, indices, *values)):
            self.ufunc.at(array, indices, *values)
            return
        raise self._no_method("at", "the result of functrans.numpy.at(x, indices).add(values)")

    def reduceat(self, array: Any, indices: Any, axis: int = 0, dtype: Any = None) -> Any:
        """NumPy's reduction over slices; not available on traced values."""
        if not isinstance(array, Tracer) and not isinstance(indices, Tracer):
            return self.ufunc.reduceat(array, indices, axis, dtype)
        raise self._no_method("reduceat", "cumsum and differences, or functrans.numpy.at(...).add")

    def _no_method(self, method: str, remedy: str) -> TypeError:
        return TypeError(
            f"numpy.{self.__name__}.{method} is not supported on traced arrays; use {remedy}."
        )

    def __repr__(self) -> str:
        return f"<traceable ufunc '{self.__name__}'>"


def _keys(args: Any) -> tuple[promotion.Key, ...] | None:
    """The promotion keys of operands, or None if one has to be converted first."""
    keys: list[Any] = []
    for x in args:
        if isinstance(x, Tracer):
            keys.append(dtypes.weak_type_of(x.dtype) if x.weak_type else x.dtype)
        elif isinstance(x, _ARRAYS):
            keys.append(x.dtype)
        elif type(x) in _PYTHON_SCALARS:
            keys.append(type(x))
        else:
            return None
    return tuple(keys)


def keep_weak(out: Any) -> Any:
    """Mark the result of an operator on Python scalars as weak too."""
    if isinstance(out, tuple):
        return tuple(map(keep_weak, out))
    if isinstance(out, Tracer):
        out.weak_type = True
        return out
    return out.item() if isinstance(out, np.generic) else out


def _masked(where: Any, result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(_masked(where, r) for r in result)
    where = operand(where)
    if dtypes.bool_ != promotion.dtype_of(where):
        raise TypeError(f"where= needs a bool mask, got {promotion.dtype_of(where)}.")
    where, result, zero = broadcast(
        promotion.strong(where), result, promotion.scalar_like(0, result)
    )
    shape = promotion.broadcast_shapes(where.shape, result.shape)
    return ops.select(where, promotion.broadcast_to(result, shape), zero)
