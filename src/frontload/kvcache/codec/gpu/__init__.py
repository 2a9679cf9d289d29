"""The same bytes on a GPU, in Triton."""
