"""The steps of calibration: sensitivities, blocks, transform, depths and levels."""
