"""What was done to an image before noise came: linear operators A, with their adjoints.

An operator says `forward(x)` = A x and `adjoint(y)` = A^T y of NumPy images (height, width); what
it does not say better is solved by conjugate gradients with these two.
"""

import numpy as np
from scipy import ndimage
from scipy.sparse import linalg


class Operator:
    """Base of all; a user's own writes `forward` and `adjoint`."""

    def forward(self, x):
        raise NotImplementedError

    def adjoint(self, y):
        raise NotImplementedError

    def first(self, y):
        """An image to start from, of what was observed."""
        return self.adjoint(y)

    def closest(self, y, z, ratio):
        """argmin_x |A x - y|^2 + ratio |x - z|^2, where (A^T A + ratio) x = A^T y + ratio z.

        Args:
            y: observed image.
            z: image of the shape of x.
            ratio: float, >= 0; 0 takes of all x with A x = y the one closest to z.
        """
        if ratio == 0:
            raise ValueError("`sigma` must be positive for this operator. Received: sigma=0")
        right = np.float64(self.adjoint(y) + ratio * z)

        def left(x):
            x = x.reshape(right.shape)
            return (self.adjoint(self.forward(x)) + ratio * x).ravel()

        system = linalg.LinearOperator((right.size, right.size), left, dtype="float64")
        x, _ = linalg.cg(system, right.ravel(), x0=np.float64(z).ravel(), rtol=1e-7, maxiter=500)
        return x.reshape(right.shape)


class Identity(Operator):
    """Noise alone."""

    def forward(self, x):
        return x

    adjoint = forward

    def closest(self, y, z, ratio):
        return (y + ratio * z) / (1 + ratio)


class Mask(Operator):
    """Pixels that are known, for inpainting.

    Args:
        known: bool (height, width), False where a pixel is missing.
    """

    def __init__(self, known):
        self.known = np.asarray(known, bool)
        if self.known.ndim != 2 or not self.known.any():
            raise ValueError(
                "`known` must be bool (height, width), True somewhere. "
                f"Received: shape {self.known.shape}, {self.known.sum()} known"
            )

    def forward(self, x):
        return np.where(self.known, x, 0)

    adjoint = forward

    def first(self, y):
        """Each missing pixel as the nearest known one."""
        nearest = ndimage.distance_transform_edt(
            ~self.known, return_distances=False, return_indices=True
        )
        return y[tuple(nearest)]

    def closest(self, y, z, ratio):
        return np.where(self.known, (y + ratio * z) / (1 + ratio), z)


class Blur(Operator):
    """Convolution with a kernel; the image goes on periodically at its borders.

    Args:
        kernel: float (rows, columns), odd both, of sum one.
    """

    def __init__(self, kernel):
        self.kernel = np.asarray(kernel, "float64")
        if self.kernel.ndim != 2 or not all(n % 2 for n in self.kernel.shape):
            raise ValueError(
                f"`kernel` must have odd sides. Received: a kernel of shape {self.kernel.shape}"
            )

    def transfer(self, shape):
        """What the convolution multiplies the Fourier transform of an image by."""
        padded = np.zeros(shape)
        rows, columns = self.kernel.shape
        if rows > shape[0] or columns > shape[1]:
            raise ValueError(f"`kernel` must be smaller than the image. Received: {rows}×{columns}")
        padded[:rows, :columns] = self.kernel
        return np.fft.rfft2(np.roll(padded, (-(rows // 2), -(columns // 2)), axis=(0, 1)))

    def forward(self, x):
        return np.fft.irfft2(self.transfer(x.shape) * np.fft.rfft2(x), x.shape)

    def adjoint(self, y):
        return np.fft.irfft2(np.conj(self.transfer(y.shape)) * np.fft.rfft2(y), y.shape)

    def first(self, y):
        return y

    def closest(self, y, z, ratio):
        """In Fourier space, where A is diagonal."""
        if ratio == 0:
            return super().closest(y, z, ratio)
        transfer = self.transfer(y.shape)
        right = np.conj(transfer) * np.fft.rfft2(y) + ratio * np.fft.rfft2(z)
        return np.fft.irfft2(right / (np.abs(transfer) ** 2 + ratio), y.shape)
