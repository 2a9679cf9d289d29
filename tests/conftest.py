"""For all tests: one profile of hypothesis, and Triton's interpreter where there is no GPU.

Whoever imports Triton first decides whether it interprets.
"""

import os

import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "frontload", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("frontload")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
