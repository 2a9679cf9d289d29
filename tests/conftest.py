"""Without a GPU, Triton kernels run in its interpreter; whoever imports Triton first decides."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
