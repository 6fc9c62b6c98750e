"""`einsum` in all of NumPy's forms, by diagonals, sums and pairwise `dot_general`.

A subscript string is parsed to one tuple of labels per operand. Labels repeated in one operand are
diagonals; labels that occur in one operand only, and not in the result, are summed first. Then
operands are contracted two at a time in the order that `np.einsum_path` finds.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import ops
from functrans.core import Tracer
from functrans.numpy import promotion
from functrans.numpy.dispatch import implements
from functrans.numpy.indexing import diagonal
from functrans.numpy.manipulation import permute, reshaped
from functrans.numpy.promotion import cast, promote
from functrans.numpy.ufuncs import multiply

Labels = tuple[str, ...]
_diagonal = diagonal.__wrapped__  # type: ignore[attr-defined]


@implements(np.einsum)
def einsum(subscripts: Any, /, *operands: Any, out: Any = None, optimize: Any = "optimal",
           dtype: Any = None, order: str = "K", casting: str = "safe") -> Any:  # fmt: skip
    """`numpy.einsum`; `optimize` names the search of `np.einsum_path` (default "optimal")."""
    if out is not None:
        raise TypeError("einsum(..., out=...) cannot be traced: use the result.")
    if isinstance(subscripts, str):
        text, items = subscripts.replace(" ", ""), [promotion.operand(x) for x in operands]
    else:
        text, items = _from_lists([subscripts, *operands])
    items = promote(*items) if dtype is None else [cast(x, np.dtype(dtype)) for x in items]
    labels, result = parse(text, [x.ndim for x in items])
    _check_extents(labels, items)
    terms = [_prepared(ls, x) for ls, x in zip(labels, items, strict=True)]
    terms = _broadcast_ones(terms)
    for pair in _path(terms, result, optimize):
        chosen = [terms.pop(i) for i in sorted(pair, reverse=True)]
        terms.append(_product_of(chosen[::-1], {s for ls, _ in terms for s in ls} | set(result)))
    return _finished(*terms[0], result)


# ---------------------------------------------------------------------------- subscripts


def _from_lists(arguments: Sequence[Any]) -> tuple[str, list[Any]]:
    """The operand-list form `einsum(x, [0, 1], y, [1, 2], [0, 2])` as a subscript string."""

    def word(sublist: Any) -> str:
        return "".join("..." if s is Ellipsis else string.ascii_letters[s] for s in sublist)

    count = len(arguments) // 2
    items = [promotion.operand(x) for x in arguments[0 : 2 * count : 2]]
    words = ",".join(word(s) for s in arguments[1 : 2 * count : 2])
    return (f"{words}->{word(arguments[-1])}" if len(arguments) % 2 else words), items


def parse(text: str, ndims: Sequence[int]) -> tuple[list[Labels], Labels]:
    """The labels of each operand and of the result; digits stand for the ellipsis' axes."""
    inputs, arrow, output = text.partition("->")
    words = inputs.split(",")
    if len(words) != len(ndims):
        raise ValueError(
            f"einsum {text!r} names {len(words)} operands, but {len(ndims)} are given."
        )
    dotted = [_ellipsis_axes(w, n, text) for w, n in zip(words, ndims, strict=True)]
    most = max((n for n in dotted if n is not None), default=0)
    shared = [str(i) for i in range(most)]
    labels = [
        _labels(w, shared[most - (n or 0) :], text) for w, n in zip(words, dotted, strict=True)
    ]
    if arrow:
        result = _labels(output, shared, text)
        counts = Counter(result)
        if counts and max(counts.values()) > 1:
            raise ValueError(f"einsum {text!r}: the result names a subscript twice.")
        missing = set(result) - {label for ls in labels for label in ls}
        if missing:
            raise ValueError(f"einsum {text!r}: the result's {sorted(missing)} are in no operand.")
        if shared and "..." not in output:
            raise ValueError(
                f"einsum {text!r}: the operands have axes under '...', the result has none."
            )
        return labels, result
    counts = Counter(label for ls in labels for label in ls if not label.isdigit())
    return labels, (*shared, *sorted(label for label, n in counts.items() if n == 1))


def _ellipsis_axes(word: str, ndim: int, text: str) -> int | None:
    named = len(word.replace("...", "", 1))
    if "..." not in word:
        if named != ndim:
            raise ValueError(
                f"einsum {text!r}: {word!r} names {named} axes of an operand that has {ndim}."
            )
        return None
    if named > ndim:
        raise ValueError(f"einsum {text!r}: {word!r} names more axes than the operand's {ndim}.")
    return ndim - named


def _labels(word: str, dots: Sequence[str], text: str) -> Labels:
    before, ellipsis, after = word.partition("...")
    labels = (*before, *(dots if ellipsis else ()), *after)
    for label in (*before, *after):
        if label not in string.ascii_letters:
            raise ValueError(f"einsum {text!r}: {label!r} is not a letter.")
    return tuple(labels)


def _check_extents(labels: Sequence[Labels], items: Sequence[Any]) -> None:
    extents: dict[str, int] = {}
    for ls, x in zip(labels, items, strict=True):
        for label, n in zip(ls, x.shape, strict=True):
            known = extents.setdefault(label, n)
            if 1 not in (known, n) and known != n:
                raise ValueError(
                    f"einsum: operands could not be broadcast together: subscript {label!r} has "
                    f"extents {known} and {n}."
                )
            extents[label] = max(known, n) if 0 not in (known, n) else min(known, n)


# ---------------------------------------------------------------------------- contraction


def _prepared(labels: Labels, x: Any) -> tuple[Labels, Any]:
    """One operand with the diagonals of its repeated labels taken."""
    for label, n in Counter(labels).items():
        for _ in range(n - 1):
            i = labels.index(label)
            j = labels.index(label, i + 1)
            if x.shape[i] != x.shape[j]:
                raise ValueError(
                    f"dimensions in single operand for collapsing index {label!r} don't match "
                    f"({x.shape[i]} != {x.shape[j]})"
                )
            x = _diagonal(x, 0, i, j)
            labels = (*(s for k, s in enumerate(labels) if k not in (i, j)), label)
    return labels, x


def _broadcast_ones(terms: list[tuple[Labels, Any]]) -> list[tuple[Labels, Any]]:
    """Drop axes of extent 1 whose label is longer in another operand: they broadcast."""
    longest: dict[str, int] = {}
    for labels, x in terms:
        for label, n in zip(labels, x.shape, strict=True):
            longest[label] = n if longest.get(label, 1) == 1 else longest[label]
    out = []
    for labels, x in terms:
        kept = [i for i, s in enumerate(labels) if x.shape[i] == longest[s]]
        out.append((tuple(labels[i] for i in kept), reshaped(x, tuple(x.shape[i] for i in kept))))
    return out


def _path(terms: Sequence[Any], result: Labels, optimize: Any) -> list[tuple[int, ...]]:
    if len(terms) <= 2:
        return [tuple(range(len(terms)))]
    names = dict(zip({s: 0 for ls, _ in terms for s in ls}, string.ascii_letters, strict=False))
    words = ["".join(names[s] for s in ls) for ls, _ in terms]
    text = ",".join(words) + "->" + "".join(names[s] for s in result)
    shapes = [np.broadcast_to(np.float32(0), x.shape) for _, x in terms]
    search = optimize if not isinstance(optimize, bool) else ("optimal" if optimize else "greedy")
    if search == "optimal" and len(terms) > 6:
        search = "greedy"  # the optimal search grows as a factorial
    path, _ = np.einsum_path(text, *shapes, optimize=search)
    return [tuple(step) for step in path[1:]]


def _summed(labels: Labels, x: Any, needed: set[str]) -> tuple[Labels, Any]:
    axes = tuple(i for i, s in enumerate(labels) if s not in needed)
    if not axes:
        return labels, x
    total = ops.reduce_or if x.dtype == bool else ops.reduce_sum
    return tuple(s for s in labels if s in needed), total(x, axes=axes)


def _product_of(terms: Sequence[tuple[Labels, Any]], needed: set[str]) -> tuple[Labels, Any]:
    """Several terms contracted from left to right; labels in `needed` are kept."""
    term = terms[0]
    for i, other in enumerate(terms[1:], 1):
        later = needed | {s for ls, _ in terms[i + 1 :] for s in ls}
        term = _summed(term[0], term[1], later | set(other[0]))
        term = _contracted(term, _summed(other[0], other[1], later | set(term[0])), later)
    return _summed(term[0], term[1], needed)


def _contracted(a: tuple[Labels, Any], b: tuple[Labels, Any], needed: set[str]) -> Any:
    """The product of two terms, summed over the labels that nothing else needs."""
    (la, x), (lb, y) = a, b
    shared = [s for s in la if s in lb]
    batch = [s for s in shared if s in needed]
    summed = [s for s in shared if s not in needed]
    free_a = [s for s in la if s not in shared]
    free_b = [s for s in lb if s not in shared]
    labels = (*batch, *free_a, *free_b)
    if not summed:
        return labels, _product(la, x, lb, y, labels)
    numbers = (
        (tuple(map(la.index, summed)), tuple(map(lb.index, summed))),
        (tuple(map(la.index, batch)), tuple(map(lb.index, batch))),
    )
    return labels, ops.dot_general(x, y, dimension_numbers=numbers)


def _product(la: Labels, x: Any, lb: Labels, y: Any, labels: Labels) -> Any:
    return multiply.traced(_spread(la, x, labels), _spread(lb, y, labels))


def _spread(labels: Labels, x: Any, target: Labels) -> Any:
    """`x` with its axes in the order of `target`, and extent 1 where it has no such axis."""
    present = [s for s in target if s in labels]
    x = permute(x, [labels.index(s) for s in present])
    extents = dict(zip(present, x.shape, strict=True))
    return reshaped(x, tuple(extents.get(s, 1) for s in target))


def _finished(labels: Labels, x: Any, result: Labels) -> Any:
    labels, x = _summed(labels, x, set(result))
    return permute(x, [labels.index(s) for s in result])


@implements(np.einsum_path)
def einsum_path(subscripts: Any, /, *operands: Any, optimize: Any = "greedy",
                einsum_call: bool = False) -> Any:  # fmt: skip
    """`numpy.einsum_path`: it depends on shapes only."""
    shapes = [
        np.broadcast_to(np.float64(0), x.shape) if isinstance(x, Tracer) else x for x in operands
    ]
    return np.einsum_path(subscripts, *shapes, optimize=optimize)
