"""First-order primitives, one file a family. `ops.sin(x)` applies one; see `core.Primitive`."""

from functrans.ops.dot import *
from functrans.ops.elementwise import *
from functrans.ops.indexing import *
from functrans.ops.reductions import *
from functrans.ops.structural import *
