"""Generated stubs of the wire contract (proto/armoire/v1); never edited by hand."""
