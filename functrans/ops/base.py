"""The family of elementwise primitives: what is common to all of them, so that one is a row.

Operands of an elementwise primitive have the shape of the result, or shape (): a number goes with
an array of any shape. Nothing else broadcasts here; `functrans.numpy` does that.

A derivative row has an entry per operand, which reads as the mathematics:

- `slope(lambda y, x: cos(x))`: the tangent is `t * f(out, *operands)`;
- `steep(lambda y, x: 1 / x)`: the same, where the derivative can be infinite or undefined. There a
  tangent or cotangent that is exactly zero stays zero, so that `where(x > 0, log(x), 0)` has the
  derivative 0 at 0, not nan;
- `along(lambda t, y, x: conj(t))`: any expression in the tangent;
- `None`: the result does not depend smoothly on this operand; its derivative is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.core import Linear, Primitive, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import structural

Row = Callable[..., Any] | None
_KIND_NAMES = {"b": "bool", "i": "integer", "u": "unsigned integer", "f": "float", "c": "complex"}


class Elementwise(Primitive):
    """A primitive that computes each element of the result from one element of each operand.

    `impl` is the NumPy function; `rows` the derivative rows, `transposes` the linear ones
    (functions `(ct, *args) -> cotangent` before it is summed to the operand's shape). `kinds` are
    the NumPy dtype kinds accepted, `result` says the dtype of the result: "same", "bool", "real",
    "complex". `scalar` is the word the compiler knows the operation by.
    """

    def __init__(
        self,
        name: str,
        impl: Callable[..., Any],
        rows: Sequence[Row] | None = None,
        *,
        kinds: str = "fc",
        result: str = "same",
        arity: int | None = None,
        transposes: Sequence[Row] = (),
        scalar: str | None = None,
    ):
        super().__init__(name)
        self.impl = impl
        self.rows = rows
        self.kinds = kinds
        self.result = result
        self.arity = arity or (len(rows) if rows is not None else impl.nin)  # type: ignore[attr-defined]
        self.transposes = transposes
        self.scalar = name if scalar is None else scalar

    def abstract_eval(self, *avals: ShapedArray, **params: Any) -> ShapedArray:
        if len(avals) != self.arity:
            raise TypeError(f"{self.name} takes {self.arity} operands, got {len(avals)}.")
        shape = self._common_shape(avals)
        dtype = self.operand_dtype(avals)
        return ShapedArray(shape, self.result_dtype(dtype))

    def _common_shape(self, avals: Sequence[ShapedArray]) -> tuple[int, ...]:
        shape: tuple[int, ...] = ()
        for aval in avals:
            if aval.shape and aval.shape != shape:
                if shape:
                    raise TypeError(
                        f"{self.name} needs operands of equal shape (or numbers), got "
                        f"{', '.join(map(str, avals))}. functrans.numpy.{self.name} broadcasts; "
                        f"ops.{self.name} does not."
                    )
                shape = aval.shape
        return shape

    def operand_dtype(self, avals: Sequence[ShapedArray]) -> np.dtype:
        """The one dtype of the operands, or a TypeError that says what to convert."""
        dtype = avals[0].dtype
        for aval in avals:
            if aval.dtype != dtype:
                raise TypeError(
                    f"{self.name} needs operands of equal dtype, got "
                    f"{', '.join(map(str, avals))}. functrans.numpy.{self.name} promotes; "
                    f"ops.{self.name} does not."
                )
        if dtype.kind not in self.kinds:
            accepted = ", ".join(_KIND_NAMES[k] for k in self.kinds)
            raise TypeError(
                f"{self.name} does not accept {dtypes.short_name(dtype)}; it takes {accepted}. "
                "Convert with x.astype(...)."
            )
        return dtype

    def result_dtype(self, dtype: np.dtype) -> np.dtype:
        """The dtype of the result for operands of `dtype`."""
        if self.result == "same":
            return dtype
        if self.result == "bool":
            return dtypes.bool_
        if self.result == "real":
            return dtypes.real_dtype(dtype)
        return dtypes.complex_dtype(dtype)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
        y = self(*primals, **params)
        if self.rows is None:
            aval = get_aval(y)
            if dtypes.is_inexact(aval.dtype):
                raise self.missing("jvp", "forward- and reverse-mode differentiation")
            return y, Zero(aval.tangent_aval())
        total = None
        for row, t in zip(self.rows, tangents, strict=True):
            if row is not None and type(t) is not Zero:
                term = row(t, y, *primals)
                total = term if total is None else self.sum_tangents(total, term)
        if total is None:
            return y, Zero(get_aval(y).tangent_aval())
        shape = np.shape(y)
        return y, total if np.shape(total) == shape else structural.spread(total, shape)

    # `add`, `mul` and `masked_mul`, set where they are declared: rules of the family use them.
    sum_tangents: Callable[[Any, Any], Any]
    times: Callable[[Any, Any], Any]
    masked_times: Callable[[Any, Any], Any]

    def transpose(self, ct: Any, *args: Any, **params: Any) -> list[Any]:
        if not self.transposes:
            raise self.missing("transpose", "reverse-mode differentiation or linear_transpose")
        cts: list[Any] = []
        for rule, x in zip(self.transposes, args, strict=True):
            if type(x) is not Linear:
                cts.append(None)
            elif rule is None:
                raise TypeError(
                    f"{self.name} is not linear in the operand {x.aval}; linear_transpose needs "
                    "a linear function."
                )
            else:
                cts.append(structural.unspread(rule(ct, *args), x.aval.shape))
        return cts

    def batch(
        self, size: int, args: Sequence[Any], dims: Sequence[int | None], **params: Any
    ) -> tuple[Any, int]:
        shapes = {np.shape(x) for x in args}
        if len(shapes) == 1 and all(d == dims[0] for d in dims):
            return self(*args, **params), dims[0]  # type: ignore[return-value]
        return self(*align(size, args, dims), **params), 0


def align(size: int, args: Sequence[Any], dims: Sequence[int | None]) -> list[Any]:
    """Bring batched elementwise operands to one shape with the batch axis in front.

    Unbatched numbers stay numbers; unbatched arrays are repeated along the new axis.
    """
    moved = [
        x if d is None else structural.moveaxis(x, d, 0) for x, d in zip(args, dims, strict=True)
    ]
    inner: tuple[int, ...] = ()
    for x, d in zip(moved, dims, strict=True):
        inner = inner or (np.shape(x) if d is None else np.shape(x)[1:])
    full = (size, *inner)
    out = []
    for x, d in zip(moved, dims, strict=True):
        shape = np.shape(x)
        if shape == full or (d is None and not shape):
            out.append(x)
        else:
            axes = tuple(range(1, len(full))) if d is None else (0,)
            out.append(structural.broadcast_in_dim(x, shape=full, broadcast_dimensions=axes))
    return out


def slope(derivative: Callable[..., Any]) -> Row:
    """A row entry: the tangent is `t * derivative(out, *operands)`."""

    def row(t: Any, y: Any, *xs: Any) -> Any:
        return Elementwise.times(t, derivative(y, *xs))

    return row


def steep(derivative: Callable[..., Any]) -> Row:
    """A row entry like `slope`, for derivatives with singularities: zero tangents stay zero."""

    def row(t: Any, y: Any, *xs: Any) -> Any:
        with np.errstate(all="ignore"):
            return Elementwise.masked_times(t, derivative(y, *xs))

    return row


def along(tangent: Callable[..., Any]) -> Row:
    """A row entry: the tangent is `tangent(t, out, *operands)`."""
    return tangent
