"""What was done to an image before noise came: linear operators A, with their adjoints.

An operator says `forward(x)` = A x and `adjoint(y)` = A^T y of NumPy images (height, width); what
it does not say better is solved by conjugate gradients with these two.
"""

import math

import numpy as np
from scipy import fft, ndimage
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

    def within(self, x):
        """Of an image of the size of x the part that y shows."""
        return x

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

        def near(x):
            return self.inverse(x.reshape(right.shape), ratio).ravel()

        system, preconditioner = (
            linalg.LinearOperator((right.size, right.size), function, dtype="float64")
            for function in (left, near)
        )
        start = np.float64(z).ravel()
        settings = {"rtol": 1e-7, "maxiter": 500, "M": preconditioner}
        x, _ = linalg.cg(system, right.ravel(), start, **settings)
        return x.reshape(right.shape)

    def inverse(self, x, ratio):
        """About (A^T A + ratio)^-1 x, symmetric and positive: the closer, the fewer steps."""
        return x


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
    """Convolution with a kernel.

    Args:
        kernel: float (rows, columns), odd both, of sum one.
        periodic: bool. True: the image goes on periodically at its borders, and y has its size.
            False, as of a photograph: nothing is known beyond what is seen, so that y is smaller
            than x by half a kernel at each border.
    """

    def __init__(self, kernel, periodic=True):
        self.kernel, self.periodic = np.asarray(kernel, "float64"), periodic
        if self.kernel.ndim != 2 or not all(n % 2 for n in self.kernel.shape):
            raise ValueError(
                f"`kernel` must have odd sides. Received: a kernel of shape {self.kernel.shape}"
            )
        self.border = (0, 0) if periodic else tuple(n // 2 for n in self.kernel.shape)
        self.transfers = {}  # by the size of an image

    def transfer(self, shape):
        """What the periodic convolution multiplies the Fourier transform of an image by."""
        if shape in self.transfers:
            return self.transfers[shape]
        padded = np.zeros(shape)
        rows, columns = self.kernel.shape
        if rows > shape[0] or columns > shape[1]:
            raise ValueError(f"`kernel` must be smaller than the image. Received: {rows}×{columns}")
        padded[:rows, :columns] = self.kernel
        padded = np.roll(padded, (-(rows // 2), -(columns // 2)), axis=(0, 1))
        return self.transfers.setdefault(shape, fft.rfft2(padded))

    def filtered(self, x, response):
        """An image times `response(transfer)` in Fourier space. Where what lies beyond the borders
        is not seen anyway, the transform is of the next larger size that it is fast in."""
        shape = x.shape if self.periodic else tuple(map(fft.next_fast_len, x.shape))
        spectrum = response(self.transfer(shape)) * fft.rfft2(x, shape)
        return fft.irfft2(spectrum, shape)[: x.shape[0], : x.shape[1]]

    def forward(self, x):
        return self.within(self.filtered(x, lambda transfer: transfer))

    def adjoint(self, y):
        return self.filtered(np.pad(y, [(n, n) for n in self.border]), np.conj)

    def first(self, y):
        return np.pad(y, [(n, n) for n in self.border], "edge")

    def within(self, x):
        (rows, columns), (height, width) = self.border, x.shape[:2]
        return x[rows : height - rows, columns : width - columns]

    def closest(self, y, z, ratio):
        """In Fourier space, where A is diagonal; without periodic borders nearly so."""
        if ratio == 0 or not self.periodic:
            return super().closest(y, z, ratio)
        return self.inverse(self.adjoint(y) + ratio * z, ratio)

    def inverse(self, x, ratio):
        """(A^T A + ratio)^-1 x, of the periodic A."""
        return self.filtered(x, lambda transfer: 1 / (np.abs(transfer) ** 2 + ratio))


def gaussian_kernel(deviation) -> np.ndarray:
    """Kernel of a `Blur` of this standard deviation in pixels, out to three of it: float
    (side, side)."""
    reach = max(1, math.ceil(3 * deviation))
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    return np.outer(line, line) / line.sum() ** 2
