"""Where values live and which steps run together."""
