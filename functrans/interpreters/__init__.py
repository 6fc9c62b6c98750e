"""Transformations of programs, a file each: staging, jvp, linearize, transpose, batching."""
