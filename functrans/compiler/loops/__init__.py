"""From nodes to loop nests: what shares loops, what is stored, the canonical form of kernels."""
