"""From tensors to bytes and back."""
