"""What keeps a recomputation apart from the first computation.

    y = sin x             y = sin x
    ...                   ...
    z = sin x             x2 = barrier x ct; z = sin x2

Without the barrier the two equations are common: `y` would be kept in memory all along, which a
checkpoint is there to avoid. With it `z` is another value, and is computed when `ct` is there, not
before. It costs nothing: `x2` is the memory of `x`.
"""

from __future__ import annotations

from typing import Any

from functrans.core import Primitive
from functrans.ir import ShapedArray


class Barrier(Primitive):
    """`x`, for readers that run no earlier than `after` is computed."""

    def abstract_eval(self, x: ShapedArray, *after: ShapedArray) -> ShapedArray:  # type: ignore[override]
        return x

    def impl(self, x: Any, *after: Any) -> Any:  # type: ignore[override]
        return x

    def lower(self, builder: Any, x: Any, *after: Any) -> Any:  # type: ignore[override]
        return builder.after(x, after)


barrier = Barrier("barrier")
