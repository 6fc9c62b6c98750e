"""Loops and branches as operations: programs in the parameters of primitives.

Each primitive has all rules of a first-order one; a rule turns the programs inside into others, by
the interpreters, and binds the same primitive again. So transformations of loops are loops.
"""

from functrans.control_flow.associative import associative_scan
from functrans.control_flow.conditionals import cond, switch
from functrans.control_flow.linear_solves import custom_linear_solve
from functrans.control_flow.maps import map
from functrans.control_flow.roots import custom_root
from functrans.control_flow.scans import scan
from functrans.control_flow.while_loops import fori_loop, while_loop

__all__ = [
    "associative_scan",
    "cond",
    "custom_linear_solve",
    "custom_root",
    "fori_loop",
    "map",
    "scan",
    "switch",
    "while_loop",
]
