"""What each idea of the codec is worth: profiles with one of them taken out.

Guarantees: variants differ from the whole in what their name says and are calibrated on the same
contexts to the same loss of the coarsest depth. Gives up: interactions; ideas are taken out one at
a time. Token deltas, which are left out of the codec, are put in by `deltas`.
"""

from __future__ import annotations

from frontload.kvcache.calibrate import CalibrationSettings


def variants(whole: CalibrationSettings) -> dict[str, CalibrationSettings]:
    """Name -> settings; `whole` itself is not among them."""
    changes: dict[str, dict[str, object]] = {
        "keys-as-cached": {"rotary": False},
        "no-mean": {"mean": False},
        "no-transform": {"transform": False},
        "no-metric": {"metric": "none"},
        "layer-weights": {"metric": "layers"},
        "no-metric-no-transform": {"metric": "none", "transform": False},
        "no-head": {"head": False},
        "one-group": {"groups": 1},
        "blocks-of-128": {"block_channels": 128},
        "blocks-of-64": {"block_channels": 64},
    }
    return {
        name: whole.model_copy(update=change)
        for name, change in changes.items()
        if any(getattr(whole, field) != value for field, value in change.items())
    }
