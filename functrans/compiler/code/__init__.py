"""From kernels, products and routines to LLVM text, and the table of a program's steps."""
