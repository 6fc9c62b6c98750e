"""The reverse mode of a real Cholesky factorization, by halves.

With L = [[L11, 0], [L21, L22]], and Z = 2 S for the gradient S of a symmetric matrix, what the
factorization did is undone last first (Murray 2016, "Differentiation of the Cholesky
decomposition", 4.3, whose blocks are columns here halves):

    Z22 from the cotangent of L22, in the same way
    Z21 = (ct21 - Z22 L21) / L11
    ct11 -= Z21^T L21
    Z11 from ct11, in the same way

Three products with half of the rows, where the closed formula makes three with all. Only the lower
triangles of the cotangent and of Z are used; Z takes the place of the cotangent. Small blocks are
done column by column, which is the same with one column for the first half.
"""

from __future__ import annotations

from functrans.runtime import blas, codegen, lapack, threads
from functrans.runtime.codegen import Unit

SMALL = 24  # rows; of 8, 16, 24, 32, 48 and 64 the best for n = 60, 100 and 500


def unit_of(char: str) -> Unit:
    """The routine for "f" or "d": buffers L, ct, Z; numbers batch, n."""
    symbols = {r: lapack.routine_symbol(r, char, False) for r in ("symm", "trsm", "gemm")}
    name = f"cholesky_reverse_{char}"
    t = {"f": "float", "d": "double"}[char]
    size = {"f": 4, "d": 8}[char]
    parts = threads.POOL, threads.SHARED, *blas.holding_parts(), _DRIVER, _HALVES, _COLUMNS
    text = "\n".join(parts)
    words = {
        "T": t,
        "SIZE": size,
        "SMALL": SMALL,
        "NAME": name,
        **symbols,
    }
    for word, value in words.items():
        text = text.replace(f"<{word}>", str(value))
    return codegen.routine(name, text)


_DRIVER = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
@<NAME>.one = private constant <T> 1.0
@<NAME>.minus = private constant <T> -1.0
@<NAME>.L = private constant i8 76
@<NAME>.R = private constant i8 82
@<NAME>.U = private constant i8 85
@<NAME>.N = private constant i8 78
@<NAME>.T = private constant i8 84

define internal void @<NAME>.piece(ptr %env, i64 %begin, i64 %end) {
entry:
  %l = load ptr, ptr %env
  %z.at = getelementptr ptr, ptr %env, i64 1
  %z = load ptr, ptr %z.at
  %n.at = getelementptr i64, ptr %env, i64 2
  %n = load i64, ptr %n.at
  %square = mul i64 %n, %n
  br label %body
body:
  %i = phi i64 [ %begin, %entry ], [ %next, %body ]
  %at = mul i64 %i, %square
  %li = getelementptr <T>, ptr %l, i64 %at
  %zi = getelementptr <T>, ptr %z, i64 %at
  call void @<NAME>.halves(ptr %li, ptr %zi, i64 %n, i64 %n)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %body, label %done
done:
  ret void
}

; OpenBLAS is limited to one thread meanwhile: see `lapack`.
define i32 @ft_entry_<NAME>(ptr %buffers, ptr %numbers, ptr %status) {
entry:
  %batch = load i64, ptr %numbers
  %n.at = getelementptr i64, ptr %numbers, i64 1
  %n = load i64, ptr %n.at
  %l = load ptr, ptr %buffers
  %ct.at = getelementptr ptr, ptr %buffers, i64 1
  %ct = load ptr, ptr %ct.at
  %z.at = getelementptr ptr, ptr %buffers, i64 2
  %z = load ptr, ptr %z.at
  %square = mul i64 %n, %n
  %one = mul i64 %square, <SIZE>
  %all = mul i64 %one, %batch
  call void @llvm.memcpy.p0.p0.i64(ptr %z, ptr %ct, i64 %all, i1 false)
  %env = alloca [3 x ptr]
  store ptr %l, ptr %env
  %z.to = getelementptr ptr, ptr %env, i64 1
  store ptr %z, ptr %z.to
  %n.to = getelementptr i64, ptr %env, i64 2
  store i64 %n, ptr %n.to
  call void @ft_blas_hold()
  %cube = mul i64 %square, %n
  %least = add i64 %cube, 1024
  %rows = udiv i64 131072, %least
  %size = add i64 %rows, 1
  call void @ft_shared(ptr @<NAME>.piece, ptr %env, i64 %batch, i64 %size)
  call void @ft_blas_release()
  ret i32 0
}
"""

# LAPACK sees every block transposed: the products are those above, transposed.
_HALVES = """
declare void @<symm>(ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, i64, i64)
declare void @<trsm>(ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, i64, i64, i64, i64)
declare void @<gemm>(ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, ptr, i64, i64)

define internal void @<NAME>.halves(ptr %l, ptr %z, i64 %ld, i64 %n) {
entry:
  %h.at = alloca i64
  %m.at = alloca i64
  %ld.at = alloca i64
  %is.small = icmp sle i64 %n, <SMALL>
  br i1 %is.small, label %small, label %large
small:
  call void @<NAME>.columns(ptr %l, ptr %z, i64 %ld, i64 %n)
  ret void
large:
  %h = sdiv i64 %n, 2
  %m = sub i64 %n, %h
  store i64 %h, ptr %h.at
  store i64 %m, ptr %m.at
  store i64 %ld, ptr %ld.at
  %below = mul i64 %h, %ld
  %right = add i64 %below, %h
  %l21 = getelementptr <T>, ptr %l, i64 %below
  %l22 = getelementptr <T>, ptr %l, i64 %right
  %z21 = getelementptr <T>, ptr %z, i64 %below
  %z22 = getelementptr <T>, ptr %z, i64 %right
  call void @<NAME>.halves(ptr %l22, ptr %z22, i64 %ld, i64 %m)
  call void @<symm>(ptr @<NAME>.R, ptr @<NAME>.U, ptr %h.at, ptr %m.at, ptr @<NAME>.minus, ptr %z22,
    ptr %ld.at, ptr %l21, ptr %ld.at, ptr @<NAME>.one, ptr %z21, ptr %ld.at, i64 1, i64 1)
  call void @<trsm>(ptr @<NAME>.L, ptr @<NAME>.U, ptr @<NAME>.N, ptr @<NAME>.N, ptr %h.at,
    ptr %m.at, ptr @<NAME>.one, ptr %l, ptr %ld.at, ptr %z21, ptr %ld.at, i64 1, i64 1, i64 1,
    i64 1)
  call void @<gemm>(ptr @<NAME>.N, ptr @<NAME>.T, ptr %h.at, ptr %h.at, ptr %m.at,
    ptr @<NAME>.minus, ptr %l21, ptr %ld.at, ptr %z21, ptr %ld.at, ptr @<NAME>.one, ptr %z,
    ptr %ld.at, i64 1, i64 1)
  call void @<NAME>.halves(ptr %l, ptr %z, i64 %ld, i64 %h)
  ret void
}
"""

# For each column k, last first: z[j, k] = (ct[j, k] - sum over i > k of Z[j, i] l[i, k]) / l[k, k],
# then z[k, k] = (ct[k, k] - sum over j > k of l[j, k] z[j, k]) / l[k, k].
_COLUMNS = """
define internal void @<NAME>.columns(ptr noalias %l, ptr noalias %z, i64 %ld, i64 %n) {
entry:
  %last = sub i64 %n, 1
  br label %k.head
k.head:
  %k = phi i64 [ %last, %entry ], [ %k.next, %k.end ]
  %k.more = icmp sge i64 %k, 0
  br i1 %k.more, label %k.body, label %done
k.body:
  %k.row = mul i64 %k, %ld
  %kk = add i64 %k.row, %k
  %lkk.at = getelementptr <T>, ptr %l, i64 %kk
  %lkk = load <T>, ptr %lkk.at
  %factor = fdiv <T> 1.0, %lkk
  %first = add i64 %k, 1
  br label %j.head
j.head:
  %j = phi i64 [ %first, %k.body ], [ %j.next, %j.end ]
  %total = phi <T> [ 0.0, %k.body ], [ %total.next, %j.end ]
  %j.more = icmp slt i64 %j, %n
  br i1 %j.more, label %j.body, label %k.end
j.body:
  %j.row = mul i64 %j, %ld
  %jk = add i64 %j.row, %k
  %zjk.at = getelementptr <T>, ptr %z, i64 %jk
  %ct = load <T>, ptr %zjk.at
  br label %row.head
row.head:
  %i = phi i64 [ %first, %j.body ], [ %i.next, %row.body ]
  %s = phi <T> [ %ct, %j.body ], [ %s.next, %row.body ]
  %row.more = icmp sle i64 %i, %j
  br i1 %row.more, label %row.body, label %column.head
row.body:
  %ji = add i64 %j.row, %i
  %zji.at = getelementptr <T>, ptr %z, i64 %ji
  %zji = load <T>, ptr %zji.at
  %i.row = mul i64 %i, %ld
  %ik = add i64 %i.row, %k
  %lik.at = getelementptr <T>, ptr %l, i64 %ik
  %lik = load <T>, ptr %lik.at
  %term = fmul contract <T> %zji, %lik
  %s.next = fsub contract <T> %s, %term
  %i.next = add i64 %i, 1
  br label %row.head
column.head:
  %c = phi i64 [ %i, %row.head ], [ %c.next, %column.body ]
  %u = phi <T> [ %s, %row.head ], [ %u.next, %column.body ]
  %column.more = icmp slt i64 %c, %n
  br i1 %column.more, label %column.body, label %j.end
column.body:
  %c.row = mul i64 %c, %ld
  %cj = add i64 %c.row, %j
  %zcj.at = getelementptr <T>, ptr %z, i64 %cj
  %zcj = load <T>, ptr %zcj.at
  %ck = add i64 %c.row, %k
  %lck.at = getelementptr <T>, ptr %l, i64 %ck
  %lck = load <T>, ptr %lck.at
  %c.term = fmul contract <T> %zcj, %lck
  %u.next = fsub contract <T> %u, %c.term
  %c.next = add i64 %c, 1
  br label %column.head
j.end:
  %zjk = fmul <T> %u, %factor
  store <T> %zjk, ptr %zjk.at
  %ljk.at = getelementptr <T>, ptr %l, i64 %jk
  %ljk = load <T>, ptr %ljk.at
  %j.term = fmul contract <T> %ljk, %zjk
  %total.next = fadd contract <T> %total, %j.term
  %j.next = add i64 %j, 1
  br label %j.head
k.end:
  %zkk.at = getelementptr <T>, ptr %z, i64 %kk
  %ct.kk = load <T>, ptr %zkk.at
  %rest = fsub <T> %ct.kk, %total
  %zkk = fmul <T> %rest, %factor
  store <T> %zkk, ptr %zkk.at
  %k.next = sub i64 %k, 1
  br label %k.head
done:
  ret void
}
"""
