"""How far apart two frames are: squared error, PSNR and SSIM, one number a frame.

Images are uint8 `(..., h, w, C)` and are compared on the scale 0..1; vectors are float `(..., F)`.
"""

from __future__ import annotations

import numpy as np

from ..errors import SpecError
from ..spec import StreamSpec


def deviations(rows: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each dimension of rows `(n, F)`, float64 `(F,)`; 1 where it never varies."""
    deviation = rows.astype(np.float64).std(0)
    return np.where(deviation > 1e-8, deviation, 1.0)


def frame_mse(predicted: np.ndarray, true: np.ndarray, spec: StreamSpec, scale: np.ndarray | None = None) -> np.ndarray:
    """Return the mean squared error of each frame, float64 `(...)`.

    `predicted` and `true` broadcast: uint8 `(..., h, w, C)` for an image stream, compared as numbers in [0, 1]; float
    `(..., F)` for a vector stream, each of the F dimensions divided by `scale` `(F,)` when it is given. A frame with a
    number that is not finite has error infinity: a failed prediction counts as wrong. Raises `SpecError` for frames of
    another shape than the stream's.
    """
    _check(predicted, spec)
    _check(true, spec)
    if spec.kind == "image":
        difference = predicted.astype(np.float32) - true.astype(np.float32)
        return np.square(difference, out=difference).mean(axis=(-3, -2, -1), dtype=np.float64) / 255.0**2
    difference = predicted.astype(np.float64) - true.astype(np.float64)
    if scale is not None:
        difference = difference / scale
    error = np.square(difference).mean(axis=-1)
    return np.where(np.isfinite(error), error, np.inf)


def psnr(mse: np.ndarray | float) -> np.ndarray:
    """Return the peak signal-to-noise ratio in dB of squared errors on the scale 0..1; infinity where they are 0."""
    with np.errstate(divide="ignore"):
        return -10.0 * np.log10(np.asarray(mse, np.float64))


def ssim(predicted: np.ndarray, true: np.ndarray, *, window: int = 11, sigma: float = 1.5) -> np.ndarray:
    """Return the structural similarity of each pair of images, float64 `(...)`, 1 for equal ones.

    `predicted`, `true`: uint8 `(..., h, w, C)`. Mean over channels and over all places where the Gaussian window fits
    whole; in images smaller than the window it shrinks to the largest odd size that fits.

    SSIM = (2 m_x m_y + c1)(2 s_xy + c2) / ((m_x^2 + m_y^2 + c1)(s_x^2 + s_y^2 + c2)), c1 = 0.01^2, c2 = 0.03^2.
    Ref: Wang, Bovik, Sheikh and Simoncelli 2004, IEEE Trans. Image Processing 13(4), eq. 13.
    """
    if predicted.shape != true.shape or predicted.ndim < 3:
        raise SpecError(
            f"SSIM compares images of one shape (..., h, w, C); received {predicted.shape} and {true.shape}."
        )
    fits = min(window, *true.shape[-3:-1])
    kernel = _gaussian(fits - (fits + 1) % 2, sigma)
    shape = true.shape[-3:]
    pairs = zip(predicted.reshape(-1, *shape), true.reshape(-1, *shape))  # one at a time: the maps are large
    return np.array([_ssim(x, y, kernel) for x, y in pairs]).reshape(true.shape[:-3])


def _ssim(predicted: np.ndarray, true: np.ndarray, kernel: np.ndarray) -> float:
    # In float32 the subtraction m(xx) - m(x)^2 loses the digits that c2 is compared with.
    x, y = (image.astype(np.float64) / 255.0 for image in (predicted, true))
    mean_x, mean_y = _blur(x, kernel), _blur(y, kernel)
    variance_x = _blur(x * x, kernel) - mean_x**2
    variance_y = _blur(y * y, kernel) - mean_y**2
    covariance = _blur(x * y, kernel) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float((numerator / denominator).mean())


def skill(error: np.ndarray, floor: np.ndarray, ceiling: float) -> np.ndarray:
    """Return 1 - (error - floor) / (ceiling - floor): 1 at the floor, 0 at the ceiling, NaN where these coincide.

    `floor` is how far the truth is from itself under other chance, `ceiling` how far apart two unrelated frames are.
    """
    span = ceiling - np.asarray(floor, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(span > 0, 1.0 - (error - floor) / span, np.nan)


def half_skill_horizon(horizons: np.ndarray, skills: np.ndarray) -> int | None:
    """Return the first measured horizon at which skill is below 0.5; None if it never is."""
    below = np.flatnonzero(np.asarray(skills, np.float64) < 0.5)
    return int(horizons[below[0]]) if len(below) else None


def motion(frames: np.ndarray, spec: StreamSpec, scale: np.ndarray | None = None) -> np.ndarray:
    """Return the mean absolute change between successive frames `(..., T, *shape)`, float64 `(..., T-1)`.

    Images on the scale 0..1, vectors divided by `scale` when it is given.
    """
    axes = tuple(range(-len(spec.shape), 0))
    time = frames.ndim - len(spec.shape) - 1
    values = frames.astype(np.float32)
    if spec.kind == "image":
        values /= 255.0
    elif scale is not None:
        values = values / scale
    return np.abs(np.diff(values, axis=time)).mean(axis=axes, dtype=np.float64)


def frame_std(frames: np.ndarray, spec: StreamSpec) -> np.ndarray:
    """Return the standard deviation inside each image (0..1 scale), float64 `(...)`; 0 for a flat one."""
    axes = tuple(range(-len(spec.shape), 0))
    return frames.astype(np.float32).std(axis=axes, dtype=np.float64) / (255.0 if spec.kind == "image" else 1.0)


def _check(frames: np.ndarray, spec: StreamSpec) -> None:
    if frames.shape[frames.ndim - len(spec.shape) :] != tuple(spec.shape):
        raise SpecError(f"frames have shape {frames.shape}; the stream's frames are (..., {spec.shape}).")


def _gaussian(size: int, sigma: float) -> np.ndarray:
    offsets = np.arange(size) - size // 2
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    return kernel / kernel.sum()


def _blur(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Filter along h and w with a separable kernel, keeping only places where it fits whole."""
    for axis in (-3, -2):
        length = images.shape[axis] - len(kernel) + 1
        moved = np.moveaxis(images, axis, 0)
        total = np.zeros((length, *moved.shape[1:]))
        for i, weight in enumerate(kernel):
            total += weight * moved[i : i + length]
        images = np.moveaxis(total, 0, axis)
    return images
