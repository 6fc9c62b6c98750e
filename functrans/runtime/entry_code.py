"""The LLVM text of the native entry; see `entry`."""

from __future__ import annotations

from functrans.runtime import entry_inputs
from functrans.runtime import python_objects as objects
from functrans.runtime.record import (
    ALIGNMENT,
    BLOCK_HEADER,
    LIST,
    OUTPUT_WORDS,
    TUPLE,
    declared,
    read,
    word,
)

_SYMBOLS = """
@ft.type.ndarray = external global i8
@ft.dtype.B = external global i8
@ft.numpy.default_handler = external global i8
@ft.not_implemented = external global i8
@ft.true = external global i8
""" + declared("""
    ptr @ft.numpy.NewFromDescr(ptr, ptr, i32, ptr, ptr, ptr, i32, ptr)
    ptr @ft.numpy.FromArray(ptr, ptr, i32)
    ptr @ft.numpy.Scalar(ptr, ptr, ptr)
    ptr @ft.numpy.SetHandler(ptr)
    void @Py_IncRef(ptr)
    void @Py_DecRef(ptr)
    ptr @PyTuple_New(i64)
    ptr @PyList_New(i64)
    i32 @PyList_Append(ptr, ptr)
    void @PyErr_Clear()
    i32 @PyTuple_SetItem(ptr, i64, ptr)
    i32 @PyList_SetItem(ptr, i64, ptr)
    i64 @PyLong_AsLongLongAndOverflow(ptr, ptr)
    ptr @PyLong_FromLongLong(i64)
    ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
    ptr @PyEval_SaveThread()
    void @PyEval_RestoreThread(ptr)
""")

# A block of the free list, or a new one: the memory of an array of bytes. null: out of memory.
_TAKE_BLOCK = f"""
define internal ptr @take_block(ptr %record) {{
entry:
  %dims = alloca i64
{word("free", "ptr")}
  %none = icmp eq ptr %free, null
  br i1 %none, label %new, label %pop
pop:
  %next = load ptr, ptr %free
  store ptr %next, ptr %free.at
  ret ptr %free
new:
{word("block_bytes")}
  store i64 %block_bytes, ptr %dims
  call void @Py_IncRef(ptr @ft.dtype.B)
  %owner = call ptr @ft.numpy.NewFromDescr(ptr @ft.type.ndarray, ptr @ft.dtype.B, i32 1,
    ptr %dims, ptr null, ptr null, i32 0, ptr null)
  %failed = icmp eq ptr %owner, null
  br i1 %failed, label %refuse, label %align
refuse:
  ret ptr null
align:
{read("%data", "i64", "%owner", objects.DATA_OFFSET)}
  %raised = add i64 %data, {ALIGNMENT - 1}
  %aligned = and i64 %raised, {-ALIGNMENT}
  %block = inttoptr i64 %aligned to ptr
  %owner.at = getelementptr i8, ptr %block, i64 8
  store ptr %owner, ptr %owner.at
  %copies.at = getelementptr i8, ptr %block, i64 16
  store ptr null, ptr %copies.at
{word("inputs")}
{word("consts")}
{word("const_data", "ptr")}
  %place = add i64 %inputs, {BLOCK_HEADER // 8}
  %buffers = getelementptr ptr, ptr %block, i64 %place
  %bytes = mul i64 %consts, 8
  call void @llvm.memcpy.p0.p0.i64(ptr %buffers, ptr %const_data, i64 %bytes, i1 false)
  ret ptr %block
}}
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define internal void @keep_block(ptr %record, ptr %block) {{
entry:
{read("%copies", "ptr", "%block", 16)}
  %no.copies = icmp eq ptr %copies, null
  br i1 %no.copies, label %push, label %drop.copies
drop.copies:
  store ptr null, ptr %copies.at
  call void @Py_DecRef(ptr %copies)
  br label %push
push:
{word("free", "ptr")}
  store ptr %free, ptr %block
  store ptr %block, ptr %free.at
  ret void
}}"""

# Make the output arrays; those of no dimensions are made of scratch memory afterwards.
_MAKE_OUTPUTS = f"""
define internal i1 @make_outputs(ptr %record, ptr %buffers, ptr %objects, ptr %scratch) {{
entry:
{word("outputs")}
{word("output_specs", "ptr")}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %made ]
  %at.end = icmp eq i64 %i, %outputs
  br i1 %at.end, label %done, label %make
make:
  %spec = getelementptr [{OUTPUT_WORDS} x i64], ptr %output_specs, i64 %i
  %object.at = getelementptr ptr, ptr %objects, i64 %i
{read("%ndim", "i64", "%spec", 8)}
  %is.scalar = icmp eq i64 %ndim, 0
  br i1 %is.scalar, label %scalar, label %array
scalar:
  %place = getelementptr [16 x i8], ptr %scratch, i64 %i
  br label %made
array:
{read("%dtype", "ptr", "%spec", 0)}
{read("%shape", "ptr", "%spec", 16)}
  %ndim.int = trunc i64 %ndim to i32
  call void @Py_IncRef(ptr %dtype)
  %new = call ptr @ft.numpy.NewFromDescr(ptr @ft.type.ndarray, ptr %dtype, i32 %ndim.int,
    ptr %shape, ptr null, ptr null, i32 0, ptr null)
  %failed = icmp eq ptr %new, null
  br i1 %failed, label %forget, label %created
created:
{read("%data", "ptr", "%new", objects.DATA_OFFSET)}
  br label %made
made:
  %object = phi ptr [ null, %scalar ], [ %new, %created ]
  %buffer = phi ptr [ %place, %scalar ], [ %data, %created ]
  store ptr %object, ptr %object.at
  %buffer.at = getelementptr ptr, ptr %buffers, i64 %i
  store ptr %buffer, ptr %buffer.at
  %i.next = add i64 %i, 1
  br label %loop
done:
  ret i1 true
forget:
  call void @forget(ptr %objects, i64 %i)
  ret i1 false
}}

define internal void @forget(ptr %objects, i64 %count) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %following ]
  %at.end = icmp eq i64 %i, %count
  br i1 %at.end, label %done, label %look
look:
  %object.at = getelementptr ptr, ptr %objects, i64 %i
  %object = load ptr, ptr %object.at
  %nothing = icmp eq ptr %object, null
  br i1 %nothing, label %following, label %drop
drop:
  call void @Py_DecRef(ptr %object)
  br label %following
following:
  %i.next = add i64 %i, 1
  br label %loop
done:
  ret void
}}"""

# Make them under the handler of large results; false, and nothing is made, under a user's own one.
_MAKE_LARGE_OUTPUTS = f"""
define internal i1 @make_large_outputs(ptr %record, ptr %buffers, ptr %objects, ptr %scratch) {{
entry:
{word("memory", "ptr")}
  %before = call ptr @ft.numpy.SetHandler(ptr %memory)
  %failed = icmp eq ptr %before, null
  br i1 %failed, label %done, label %look
look:
  %is.default = icmp eq ptr %before, @ft.numpy.default_handler
  br i1 %is.default, label %make, label %restore
make:
  %all = call i1 @make_outputs(ptr %record, ptr %buffers, ptr %objects, ptr %scratch)
  br i1 %all, label %restore, label %clear
clear:
  call void @PyErr_Clear()
  br label %restore
restore:
  %made = phi i1 [ false, %look ], [ true, %make ], [ false, %clear ]
  %ours = call ptr @ft.numpy.SetHandler(ptr %before)
  call void @Py_DecRef(ptr %ours)
  call void @Py_DecRef(ptr %before)
  br label %done
done:
  %result = phi i1 [ false, %entry ], [ %made, %restore ]
  call void @PyErr_Clear()
  ret i1 %result
}}"""

# The scalars that the driver computed, as objects.
_MAKE_SCALARS = f"""
define internal i1 @make_scalars(ptr %record, ptr %buffers, ptr %objects) {{
entry:
{word("outputs")}
{word("output_specs", "ptr")}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %following ]
  %at.end = icmp eq i64 %i, %outputs
  br i1 %at.end, label %done, label %look
look:
  %spec = getelementptr [{OUTPUT_WORDS} x i64], ptr %output_specs, i64 %i
{read("%ndim", "i64", "%spec", 8)}
  %is.scalar = icmp eq i64 %ndim, 0
  br i1 %is.scalar, label %make, label %following
make:
{read("%dtype", "ptr", "%spec", 0)}
  %buffer.at = getelementptr ptr, ptr %buffers, i64 %i
  %buffer = load ptr, ptr %buffer.at
  %new = call ptr @ft.numpy.Scalar(ptr %buffer, ptr %dtype, ptr null)
  %object.at = getelementptr ptr, ptr %objects, i64 %i
  store ptr %new, ptr %object.at
  %failed = icmp eq ptr %new, null
  br i1 %failed, label %forget, label %following
following:
  %i.next = add i64 %i, 1
  br label %loop
done:
  ret i1 true
forget:
  call void @forget(ptr %objects, i64 %outputs)
  ret i1 false
}}"""

# What is returned: the output itself, or a tuple or list of the outputs, which it takes over.
_RESULT = f"""
define internal ptr @result(ptr %record, ptr %objects) {{
entry:
{word("outputs")}
{word("results")}
  switch i64 %results, label %single [ i64 {TUPLE}, label %tuple i64 {LIST}, label %list ]
single:
  %only = load ptr, ptr %objects
  ret ptr %only
tuple:
  %new.tuple = call ptr @PyTuple_New(i64 %outputs)
  br label %container
list:
  %new.list = call ptr @PyList_New(i64 %outputs)
  br label %container
container:
  %new = phi ptr [ %new.tuple, %tuple ], [ %new.list, %list ]
  %is.tuple = icmp eq i64 %results, {TUPLE}
  %failed = icmp eq ptr %new, null
  br i1 %failed, label %forget, label %loop
loop:
  %i = phi i64 [ 0, %container ], [ %i.next, %filled ]
  %at.end = icmp eq i64 %i, %outputs
  br i1 %at.end, label %done, label %fill
fill:
  %object.at = getelementptr ptr, ptr %objects, i64 %i
  %object = load ptr, ptr %object.at
  %i.next = add i64 %i, 1
  br i1 %is.tuple, label %fill.tuple, label %fill.list
fill.tuple:
  %unused.tuple = call i32 @PyTuple_SetItem(ptr %new, i64 %i, ptr %object)
  br label %filled
fill.list:
  %unused.list = call i32 @PyList_SetItem(ptr %new, i64 %i, ptr %object)
  br label %filled
filled:
  br label %loop
done:
  ret ptr %new
forget:
  call void @forget(ptr %objects, i64 %outputs)
  ret ptr null
}}"""

# Raise what the status words mean: `fail(check, number)`.
_FAILURE = f"""
define internal ptr @failure(ptr %record, i64 %check, i64 %number) {{
entry:
  %args = alloca [2 x ptr]
{word("fail", "ptr")}
  %first = call ptr @PyLong_FromLongLong(i64 %check)
  %second = call ptr @PyLong_FromLongLong(i64 %number)
  %second.at = getelementptr ptr, ptr %args, i64 1
  store ptr %first, ptr %args
  store ptr %second, ptr %second.at
  %raised = call ptr @PyObject_Vectorcall(ptr %fail, ptr %args, i64 2, ptr null)
  call void @Py_DecRef(ptr %first)
  call void @Py_DecRef(ptr %second)
  ret ptr %raised
}}"""

_RUN = f"""
define internal i32 @run(ptr %record, ptr %buffers, ptr %arena, ptr %status) {{
entry:
{word("run", "ptr")}
{word("table", "ptr")}
{word("release_gil")}
  %held = icmp eq i64 %release_gil, 0
  br i1 %held, label %short, label %long
short:
  %short.status = call i32 %run(ptr %table, ptr %buffers, ptr %arena, ptr %status)
  ret i32 %short.status
long:
  %thread = call ptr @PyEval_SaveThread()
  %long.status = call i32 %run(ptr %table, ptr %buffers, ptr %arena, ptr %status)
  call void @PyEval_RestoreThread(ptr %thread)
  ret i32 %long.status
}}"""

_ENTRY = f"""
define ptr @ft_entry_call(ptr %self, ptr %args, i64 %count) {{
entry:
{read("%record", "ptr", "%self", objects.DATA_OFFSET)}
{word("inputs")}
  %all.given = icmp eq i64 %count, %inputs
  br i1 %all.given, label %prepare, label %not.mine
prepare:
  %block = call ptr @take_block(ptr %record)
  %no.memory = icmp eq ptr %block, null
  br i1 %no.memory, label %raised, label %read
read:
{word("consts")}
{word("outputs")}
{word("objects_at")}
{word("scratch_at")}
{word("arena_at")}
{word("status_at")}
{word("refresh", "ptr")}
  %buffers = getelementptr i8, ptr %block, i64 {BLOCK_HEADER}
  %given = add i64 %inputs, %consts
  %out.buffers = getelementptr ptr, ptr %buffers, i64 %given
  %objects = getelementptr i8, ptr %block, i64 %objects_at
  %scratch = getelementptr i8, ptr %block, i64 %scratch_at
  %out.scratch = getelementptr [16 x i8], ptr %scratch, i64 %inputs
  %arena = getelementptr i8, ptr %block, i64 %arena_at
  %accepted = call i1 @read_inputs(ptr %record, ptr %args, ptr %buffers, ptr %scratch,
    ptr %block)
  br i1 %accepted, label %look.refresh, label %refuse
look.refresh:
  %nothing.to.refresh = icmp eq ptr %refresh, null
  br i1 %nothing.to.refresh, label %make, label %call.refresh
call.refresh:
  %refreshed = call ptr @PyObject_Vectorcall(ptr %refresh, ptr null, i64 0, ptr null)
  %refresh.failed = icmp eq ptr %refreshed, null
  br i1 %refresh.failed, label %give.up, label %drop.refreshed
drop.refreshed:
  call void @Py_DecRef(ptr %refreshed)
  br label %make
make:
{word("memory", "ptr")}
  %is.small = icmp eq ptr %memory, null
  br i1 %is.small, label %make.plain, label %make.large
make.large:
  %made.large = call i1 @make_large_outputs(ptr %record, ptr %out.buffers, ptr %objects,
    ptr %out.scratch)
  br i1 %made.large, label %work, label %make.plain
make.plain:
  %made = call i1 @make_outputs(ptr %record, ptr %out.buffers, ptr %objects, ptr %out.scratch)
  br i1 %made, label %work, label %give.up
work:
  %status = getelementptr i8, ptr %block, i64 %status_at
  %result.code = call i32 @run(ptr %record, ptr %buffers, ptr %arena, ptr %status)
  %failed = icmp ne i32 %result.code, 0
  br i1 %failed, label %fail, label %finish
finish:
  %complete = call i1 @make_scalars(ptr %record, ptr %out.buffers, ptr %objects)
  br i1 %complete, label %return, label %give.up
return:
  %result = call ptr @result(ptr %record, ptr %objects)
  call void @keep_block(ptr %record, ptr %block)
  ret ptr %result
fail:
  %check = load i64, ptr %status
  %number.at = getelementptr i64, ptr %status, i64 1
  %number = load i64, ptr %number.at
  call void @forget(ptr %objects, i64 %outputs)
  call void @keep_block(ptr %record, ptr %block)
  %failure = call ptr @failure(ptr %record, i64 %check, i64 %number)
  ret ptr %failure
give.up:
  call void @keep_block(ptr %record, ptr %block)
  br label %raised
raised:
  ret ptr null
refuse:
  call void @keep_block(ptr %record, ptr %block)
  br label %not.mine
not.mine:
  call void @Py_IncRef(ptr @ft.not_implemented)
  ret ptr @ft.not_implemented
}}"""

TEXT = "\n".join(
    (_SYMBOLS, _TAKE_BLOCK, entry_inputs.TEXT, _MAKE_OUTPUTS, _MAKE_LARGE_OUTPUTS, _MAKE_SCALARS,
     _RESULT, _FAILURE, _RUN, _ENTRY)
)  # fmt: skip
