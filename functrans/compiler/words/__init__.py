"""What each scalar operation is in LLVM."""
