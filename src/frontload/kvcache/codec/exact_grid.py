"""How finely the exact level tells a channel's values apart: from the profile's own noise.

Guarantees: integers and single IEEE operations only, so that every machine finds the same grid.
Gives up: what calibration measured of the noise; it follows from the basis alone.
"""

from __future__ import annotations

import numpy as np

from frontload.kvcache.profile import Profile


def grids_of(profile: Profile) -> tuple[np.ndarray, np.ndarray]:
    """int32 `[pieces, head_dim]` each: the biased exponent of 128 g_j, and sigma_j's fraction.

    The fraction is 0..3: log2(sigma_j / g_j) in quarters, rounded down, less 6. An error of
    rounding is uniform in a step, and a component that is never coded hardly larger:
    sigma_j^2 = scale^2 sum_k inverse_kj^2 / 12; the two channels of a rotated pair share their
    mean.
    """
    return _of_noise(_variance(profile))


def _variance(profile: Profile) -> np.ndarray:
    """float64 `[pieces, head_dim]`: sigma_j^2."""
    transform, layout = profile.transform, profile.layout
    energy = (transform.inverse.astype(np.int64) ** 2).sum(axis=1).astype(np.float64)
    scale = transform.scale.astype(np.float64)[:, None]
    variance = np.empty((layout.num_pieces, layout.head_dim))
    variance[transform.pieces] = (energy * (scale * scale) / 12).reshape(
        *transform.pieces.shape, layout.head_dim
    )
    if layout.rotary is not None:
        half, keys = len(layout.rotary.inv_freq), variance[: layout.num_pieces // 2]
        if layout.rotary.pairing == "halves":
            first, second = keys[:, :half], keys[:, half : 2 * half]
        else:
            first, second = keys[:, 0 : 2 * half : 2], keys[:, 1 : 2 * half : 2]
        first[:] = second[:] = (first + second) / 2
    return variance


def _of_noise(variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mantissa, exponent = np.frexp(np.maximum(variance, 2.0**-240))  # mantissa in [1/2, 1)
    quarters = 2 * exponent - 2 + (mantissa >= 2**-0.5)  # of an octave of sigma, rounded down
    return (
        np.clip((quarters - 6) // 4 + 7 + 127, 9, 254).astype(np.int32),
        ((quarters - 6) % 4).astype(np.int32),
    )
