"""What compiled programs need while they run: code, BLAS, symbols, calls."""
