"""From a jaxpr to machine code; `pipeline` lists the passes in order."""
