"""The KV codec: a context's cache as a small, layered, checked bitstream."""
