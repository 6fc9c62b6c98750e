"""The LLVM text of the native entry that checks and reads its inputs; see `entry`."""

from __future__ import annotations

from functrans.runtime import python_objects as objects
from functrans.runtime.record import INPUT_WORDS, NUMBER_FROM_BOOL, NUMBER_FROM_INT, read, word

# The data of one input; null if it is not what the spec says. An array in another layout or byte
# order is copied, a number that is not stored as C stores it goes to %scratch.
_INPUT = f"""
define internal ptr @input(ptr %object, ptr %spec, ptr %scratch, ptr %block) {{
entry:
  %overflow = alloca i32
{read("%type", "ptr", "%object", objects.TYPE_OFFSET)}
  %value = getelementptr i8, ptr %object, i64 {objects.DATA_OFFSET}
{read("%dtype", "ptr", "%spec", 0)}
{read("%scalar", "ptr", "%spec", 8)}
{read("%python", "ptr", "%spec", 16)}
{read("%number", "i64", "%spec", 24)}
{read("%ndim", "i64", "%spec", 32)}
{read("%shape", "ptr", "%spec", 40)}
  %is.array = icmp eq ptr %type, @ft.type.ndarray
  br i1 %is.array, label %array, label %other

array:
  %takes.arrays = icmp ne ptr %dtype, null
  %given.ndim.at = getelementptr i8, ptr %object, i64 {objects.NDIM_OFFSET}
  %given.ndim = load i32, ptr %given.ndim.at
  %given.wide = zext i32 %given.ndim to i64
  %ndim.ok = icmp eq i64 %given.wide, %ndim
  %all.ok = and i1 %takes.arrays, %ndim.ok
  br i1 %all.ok, label %compare.dtype, label %refuse
compare.dtype:
{read("%given.dtype", "ptr", "%object", objects.DTYPE_OFFSET)}
  %same.object = icmp eq ptr %given.dtype, %dtype
  br i1 %same.object, label %compare.shape, label %compare.meaning
compare.meaning:
{read("%meaning", "i64", "%dtype", objects.DTYPE_MEANING_OFFSET)}
{read("%given.meaning", "i64", "%given.dtype", objects.DTYPE_MEANING_OFFSET)}
  %difference = xor i64 %meaning, %given.meaning
  %different.number = and i64 %difference, {objects.DTYPE_NUMBER_MASK}
  %same.number = icmp eq i64 %different.number, 0
  br i1 %same.number, label %compare.shape, label %refuse
compare.shape:
  %dtype.difference = phi i64 [ 0, %compare.dtype ], [ %difference, %compare.meaning ]
{read("%given.shape", "ptr", "%object", objects.SHAPE_OFFSET)}
  br label %axis
axis:
  %i = phi i64 [ 0, %compare.shape ], [ %i.next, %compare.extent ]
  %at.end = icmp eq i64 %i, %ndim
  br i1 %at.end, label %look.layout, label %compare.extent
compare.extent:
  %given.extent.at = getelementptr i64, ptr %given.shape, i64 %i
  %given.extent = load i64, ptr %given.extent.at
  %extent.at = getelementptr i64, ptr %shape, i64 %i
  %extent = load i64, ptr %extent.at
  %i.next = add i64 %i, 1
  %extent.ok = icmp eq i64 %extent, %given.extent
  br i1 %extent.ok, label %axis, label %refuse
look.layout:
  %flags.at = getelementptr i8, ptr %object, i64 {objects.FLAGS_OFFSET}
  %flags = load i32, ptr %flags.at
  %flags.set = and i32 %flags, {objects.FLAGS_NEEDED}
  %flags.ok = icmp eq i32 %flags.set, {objects.FLAGS_NEEDED}
  %order.ok = icmp eq i64 %dtype.difference, 0
  %layout.ok = and i1 %flags.ok, %order.ok
  br i1 %layout.ok, label %accept, label %copy
accept:
  %data = load ptr, ptr %value
  ret ptr %data
copy:
  %copied = call ptr @copied(ptr %object, ptr %dtype, ptr %block)
  ret ptr %copied

other:
  %is.scalar = icmp eq ptr %type, %scalar
  br i1 %is.scalar, label %as.stored, label %python.number
python.number:
  %is.python = icmp eq ptr %type, %python
  br i1 %is.python, label %convert, label %refuse
convert:
  switch i64 %number, label %as.stored
    [ i64 {NUMBER_FROM_INT}, label %from.int i64 {NUMBER_FROM_BOOL}, label %from.bool ]
as.stored:
  ret ptr %value
from.int:
  %integer = call i64 @PyLong_AsLongLongAndOverflow(ptr %object, ptr %overflow)
  store i64 %integer, ptr %scratch
  %too.large = load i32, ptr %overflow
  %fits = icmp eq i32 %too.large, 0
  br i1 %fits, label %in.scratch, label %refuse
from.bool:
  %is.true = icmp eq ptr %object, @ft.true
  %byte = zext i1 %is.true to i8
  store i8 %byte, ptr %scratch
  br label %in.scratch
in.scratch:
  ret ptr %scratch
refuse:
  ret ptr null
}}"""

# The data of a copy in the layout and byte order that native code reads; null: out of memory, which
# the general way will find again.
_COPIED = f"""
define internal ptr @copied(ptr %object, ptr %dtype, ptr %block) {{
entry:
{read("%copies", "ptr", "%block", 16)}
  %is.first = icmp eq ptr %copies, null
  br i1 %is.first, label %begin, label %copy
begin:
  %new = call ptr @PyList_New(i64 0)
  store ptr %new, ptr %copies.at
  %no.list = icmp eq ptr %new, null
  br i1 %no.list, label %failed, label %copy
copy:
  %list = phi ptr [ %copies, %entry ], [ %new, %begin ]
  call void @Py_IncRef(ptr %dtype)
  %array = call ptr @ft.numpy.FromArray(ptr %object, ptr %dtype, i32 {objects.FLAGS_NEEDED})
  %no.array = icmp eq ptr %array, null
  br i1 %no.array, label %failed, label %keep
keep:
  %appended = call i32 @PyList_Append(ptr %list, ptr %array)
  call void @Py_DecRef(ptr %array)
  %not.kept = icmp ne i32 %appended, 0
  br i1 %not.kept, label %failed, label %done
done:
{read("%data", "ptr", "%array", objects.DATA_OFFSET)}
  ret ptr %data
failed:
  call void @PyErr_Clear()
  ret ptr null
}}"""

# Fill the table with the inputs; false if one is refused.
_READ_INPUTS = f"""
define internal i1 @read_inputs(ptr %record, ptr %args, ptr %buffers, ptr %scratch, ptr %block) {{
entry:
{word("inputs")}
{word("input_specs", "ptr")}
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %accept ]
  %at.end = icmp eq i64 %i, %inputs
  br i1 %at.end, label %done, label %check
check:
  %object.at = getelementptr ptr, ptr %args, i64 %i
  %object = load ptr, ptr %object.at
  %spec = getelementptr [{INPUT_WORDS} x i64], ptr %input_specs, i64 %i
  %place = getelementptr [16 x i8], ptr %scratch, i64 %i
  %data = call ptr @input(ptr %object, ptr %spec, ptr %place, ptr %block)
  %refused = icmp eq ptr %data, null
  br i1 %refused, label %refuse, label %accept
accept:
  %buffer.at = getelementptr ptr, ptr %buffers, i64 %i
  store ptr %data, ptr %buffer.at
  %i.next = add i64 %i, 1
  br label %loop
done:
  ret i1 true
refuse:
  ret i1 false
}}"""

TEXT = "\n".join((_INPUT, _COPIED, _READ_INPUTS))
