"""frontload: place reasoning data where it pays, and prove that it paid."""

__version__ = "0.1.0"
