"""From equations to nodes: what one element of each value is."""
