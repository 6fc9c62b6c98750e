"""functrans: differentiate, vectorize and compile plain NumPy code on a CPU.

How a value flows: `fnp.log1p(x)` (or `np.log1p(x)` of a traced `x`) promotes its operands, then
calls `ops.log1p`. The *current trace* decides what that means. Normally it is `EvalTrace`, which
calls NumPy on plain arrays. Under `grad` it is a JVP trace over a trace that records only what
touches a tangent; the recorded program is linear, and transposition runs it backwards. Under
`vmap` it is a batching trace. Under `jit` everything is staged to a jaxpr, which is simplified,
lowered to the loop program, compiled and cached. Traces nest because each rule is itself written
with ops, which ask the then-current trace.

>>> import numpy as np
>>> import functrans as ft
>>> ft.grad(lambda x: np.sum(np.tanh(x) ** 2))(np.zeros(3))
array([0., 0., 0.])
"""

from functrans import (
    ad_checkpoint,
    checkpoint_policies,
    custom_batching,
    custom_derivatives,
    debug,
    export,
    lax,
    nn,
    numpy,
    printing,
    random,
    scipy,
    test_util,
    tree,
    tree_util,
)
from functrans.api import (
    eval_shape,
    grad,
    jvp,
    linear_transpose,
    linearize,
    make_jaxpr,
    value_and_grad,
    vjp,
)
from functrans.arguments import ShapeDtypeStruct
from functrans.callbacks import io_callback, pure_callback
from functrans.checking import check_jaxpr
from functrans.checkpoint import checkpoint, remat
from functrans.config import checking_ir, checking_leaks, disable_jit
from functrans.core import Primitive
from functrans.custom_rules import closure_convert, custom_gradient, custom_jvp, custom_vjp
from functrans.dtypes import float0
from functrans.foreign import native_call, numba_call, numba_kernel
from functrans.implicit import implicit_function
from functrans.interpreters.nan_checks import debug_nans
from functrans.interpreters.staging import eval_jaxpr
from functrans.ir import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from functrans.jit import jit
from functrans.runtime import cache
from functrans.runtime.threads import threads
from functrans.vectorize import hessian, jacfwd, jacobian, jacrev, vmap

__version__ = "0.1.0"

__all__ = [
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Primitive",
    "ShapeDtypeStruct",
    "Var",
    "ad_checkpoint",
    "cache",
    "check_jaxpr",
    "checking_ir",
    "checking_leaks",
    "checkpoint",
    "checkpoint_policies",
    "closure_convert",
    "custom_batching",
    "custom_derivatives",
    "custom_gradient",
    "custom_jvp",
    "custom_vjp",
    "debug",
    "debug_nans",
    "disable_jit",
    "eval_jaxpr",
    "eval_shape",
    "export",
    "float0",
    "grad",
    "hessian",
    "implicit_function",
    "io_callback",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jit",
    "jvp",
    "lax",
    "linear_transpose",
    "linearize",
    "make_jaxpr",
    "native_call",
    "nn",
    "numba_call",
    "numba_kernel",
    "numpy",
    "printing",
    "pure_callback",
    "random",
    "remat",
    "scipy",
    "test_util",
    "threads",
    "tree",
    "tree_util",
    "value_and_grad",
    "vjp",
    "vmap",
]
