"""Train a classifier of handwritten digits with `jit(value_and_grad(loss))`.

The network is plain NumPy. The whole train step - forward, backward and update - is one jitted
function; the same function without `jit` gives the same numbers, slower. Run it:

    python examples/digits.py
"""

from __future__ import annotations

import gzip
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import functrans as ft

DATA = Path(__file__).parent / "data" / "digits.csv.gz"
LAYERS = (64, 128, 10)
BATCH = 32
EPOCHS = 20
RATE = 0.1


class Split(NamedTuple):
    """Images as rows of 64 grey values in [0, 1], and their digits as one-hot rows of 10."""

    images: np.ndarray
    targets: np.ndarray


class Outcome(NamedTuple):
    """What `main` measured; the tests hold it."""

    accuracy: float
    losses: list[float]
    eager_steps_per_second: float
    jit_steps_per_second: float


def load_digits(seed: int = 0) -> tuple[Split, Split]:
    """Return the 1437 training and the 360 test images of a fixed shuffle."""
    with gzip.open(DATA, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    table = np.random.default_rng(seed).permutation(table)
    images = table[:, :64] / np.float32(16)
    targets = np.eye(10, dtype=np.float32)[table[:, 64].astype(int)]
    return Split(images[:1437], targets[:1437]), Split(images[1437:], targets[1437:])


def init_params(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return one (weights, bias) pair a layer, with He's initial scale sqrt(2 / fan-in)."""
    return [
        (
            rng.normal(0, np.sqrt(2 / n), size=(n, m)).astype(np.float32),
            np.zeros(m, np.float32),
        )
        for n, m in itertools.pairwise(LAYERS)
    ]


def predict(params, images):
    """Return one row of 10 unnormalized log-probabilities per image."""
    *hidden, (w, b) = params
    x = images
    for v, c in hidden:
        x = np.maximum(x @ v + c, 0)
    return x @ w + b


def loss(params, images, targets):
    """Return the mean cross-entropy between the predictions and the one-hot targets."""
    logits = predict(params, images)
    logits = logits - np.max(logits, axis=1, keepdims=True)
    log_total = np.log(np.sum(np.exp(logits), axis=1))
    return np.mean(log_total - np.sum(logits * targets, axis=1))


def train_step(params, images, targets):
    """Return the loss and the parameters after one step of gradient descent."""
    value, grads = ft.value_and_grad(loss)(params, images, targets)
    return value, ft.tree.map(lambda p, g: p - RATE * g, params, grads)


def accuracy(params, data: Split) -> float:
    """Return the part of the images whose largest prediction is the right digit."""
    guesses = np.argmax(predict(params, data.images), axis=1)
    return float(np.mean(guesses == np.argmax(data.targets, axis=1)))


def batches(data: Split, rng: np.random.Generator) -> list[Split]:
    """Return the data in a fresh random order, in full batches."""
    order = rng.permutation(len(data.images))
    rows = [order[i : i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]
    return [Split(data.images[r], data.targets[r]) for r in rows]


def progress(items: list, label: str) -> Iterator:
    """Yield the items while a bar grows on stderr; in a file or pipe, only the full bar appears."""
    is_live = sys.stderr.isatty()
    for i, item in enumerate(items, 1):
        yield item
        if is_live or i == len(items):
            bar = "#" * (30 * i // len(items))
            start, end = ("\r", "") if is_live else ("", "\n")
            print(f"{start}{label} [{bar:<30}] {i}/{len(items)}", end=end, file=sys.stderr)
            sys.stderr.flush()
    if is_live:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def steps_per_second(step, params, batch: Split, seconds: float = 1.0) -> float:
    """Run `step` on one batch for about that long, after a first call that is not counted."""
    step(params, *batch)
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        step(params, *batch)
        count += 1
    return count / spent


def main(epochs: int = EPOCHS) -> Outcome:
    """Train, report, and fail when the classifier is worse than it should be."""
    rng = np.random.default_rng(1)
    train, test = load_digits()
    params = init_params(rng)
    first = Split(train.images[:BATCH], train.targets[:BATCH])

    print("loss, as traced from NumPy code:")
    print(ft.make_jaxpr(loss)(params, *first), end="\n\n")

    fast_step = ft.jit(train_step)
    start = time.perf_counter()
    fast_step(params, *first)
    print(f"first call of the jitted step, with compilation: {time.perf_counter() - start:.2f} s")

    losses = []
    for epoch in range(1, epochs + 1):
        total = 0.0
        todo = batches(train, rng)
        for batch in progress(todo, f"epoch {epoch:2}/{epochs}"):
            value, params = fast_step(params, *batch)
            total += float(value)
        losses.append(total / len(todo))
        print(f"epoch {epoch:2}  loss {losses[-1]:.4f}  test accuracy {accuracy(params, test):.4f}")

    eager = steps_per_second(train_step, params, first)
    jitted = steps_per_second(fast_step, params, first)
    print(f"steps per second: {eager:.0f} eager, {jitted:.0f} jit ({jitted / eager:.0f}x)")
    final = accuracy(params, test)
    print(f"test accuracy: {final:.4f}")
    if epochs == EPOCHS and final < 0.96:
        raise SystemExit(f"test accuracy {final:.4f} is below 0.96")
    return Outcome(final, losses, eager, jitted)


if __name__ == "__main__":
    main()
