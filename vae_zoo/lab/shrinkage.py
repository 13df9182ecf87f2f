"""What a prior over patches makes of noisy patches: the inner step of `restoration.py`.

`shrinkage(prior, …)` returns a function of patches and a noise level, whatever plays the prior: a
Gaussian mixture filters each patch by its likeliest component, a VAE reconstructs it.
"""

import functools

import numpy as np
from keras import ops

from vae_zoo.models.gaussian_mixture import GaussianMixture
from vae_zoo.models.kinds import BaseVAE
from vae_zoo.parts.em import squared_norms
from vae_zoo.parts.likelihoods import Gaussian

ROWS = 1024  # patches in a product
BLOCK = 64  # patches of one component, filtered together
BLOCKS = 64  # of these at a time
STEP = 8  # ranks are rounded up to multiples of this, so that there are few shapes


@functools.singledispatch
def shrinkage(prior, truncation=0.0):
    """A function (patches, level, choice) -> (patches, choice), NumPy float32 (n, size).

    Args:
        prior: a `GaussianMixture`, or a VAE of patches.
        truncation: float, see `OfMixture`.

    Returns:
        a function of noisy patches, flat; `level`, the standard deviation of their noise; and
        `choice`, what an earlier call chose for the same patches, or None. Its attribute
        `patch_shape` is (height, width) of a patch.
    """
    raise ValueError(f"A {type(prior).__name__} is no prior over patches")


@shrinkage.register
def _(prior: GaussianMixture, truncation=0.0):
    return OfMixture(prior, truncation)


@shrinkage.register
def _(prior: BaseVAE, truncation=0.0):
    return OfVAE(prior)


def _patch_shape(prior):
    shape = prior.domain.shape
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) != 2:
        raise ValueError(f"`prior` must be of grey patches. Received: examples of shape {shape}")
    return shape


class OfMixture:
    """The posterior mean of a patch under its likeliest component (Zoran and Weiss, section 4).

    k* = argmax_k log w_k + log N(p; m_k, C_k + level^2 I)
    z = m + C (C + level^2 I)^-1 (p - m)

    Where the mixture removes the mean of a patch, it stays as it is.

    Args:
        prior: `GaussianMixture`.
        truncation: float; eigenvalues below truncation · level^2 count as their mean in the search
            for the component, so that it needs the other eigenvectors alone; 0 is exact. Such a
            flat tail: Parameswaran et al. 2018 (FEPLL), arXiv:1710.08124.
    """

    def __init__(self, prior, truncation=0.0):
        self.prior, self.truncation, self.patch_shape = prior, truncation, _patch_shape(prior)
        weights, means, self.values, vectors = prior.spectra()
        if prior.basis is not None:
            vectors, means = prior.basis @ vectors, means @ prior.basis.T
        self.log_weights, self.means, self.vectors = np.log(weights + 1e-300), means, vectors
        self.prepared = {}

    def __call__(self, patches, level, choice=None):
        search, gains, offsets = self._at(level)
        if choice is None:
            choice = search(patches)
        return self._filtered(patches, choice, gains, offsets), choice

    def _at(self, level):
        """The search, and gains (K, size, size) and offsets (K, size), of one noise level."""
        if level not in self.prepared:
            shares = self.values / (self.values + level**2)
            gains = np.einsum("kij,kj,klj->kil", self.vectors, shares, self.vectors)
            offsets = self.means - np.einsum("kij,kj->ki", gains, self.means)
            device = [ops.convert_to_tensor(a.astype("float32")) for a in (gains, offsets)]
            self.prepared[level] = (self._search(level), *device)
        return self.prepared[level]

    # === The component ===

    def _search(self, level):
        """A function of patches (n, size): the likeliest components, int (n,).

        With M = (C + level^2 I)^-1, a score is its constant + m^T M p - p^T M p / 2. Where few
        eigenvalues are left before the flat tail, M = I / tail - A A^T for a thin A; the others'
        p^T M p are one product of the pairs p_i p_j with the entries of M, half of what the roots
        of M would cost.
        """
        size = self.values.shape[1]
        ranks = np.maximum(1, (self.values > self.truncation * level**2).sum(axis=1))
        ranks = np.minimum(-(-ranks // STEP) * STEP, size)
        flat = np.arange(size) >= ranks[:, None]
        values = self.values + level**2
        tails = (values * flat).sum(axis=1) / np.maximum(flat.sum(axis=1), 1)
        values = np.where(flat, tails[:, None], values)
        precisions = np.einsum("kij,kj,klj->kil", self.vectors, 1 / values, self.vectors)
        linear = np.einsum("kij,kj->ki", precisions, self.means)
        constant = self.log_weights - 0.5 * np.log(values).sum(axis=1)
        constant -= 0.5 * (linear * self.means).sum(axis=1)

        thin = np.where(ranks <= size // 2, ranks, 0)  # 0: by pairs
        order = np.argsort(thin, kind="stable")
        by_pairs = order[thin[order] == 0]
        arrays = [constant[order], linear[order].T, _entries(precisions[by_pairs])]
        groups = []
        for rank in np.unique(thin[thin > 0]):
            ks = order[thin[order] == rank]
            groups.append((len(ks), int(rank)))
            roots = np.sqrt(np.maximum(1 / tails[ks, None] - 1 / values[ks, :rank], 0))
            arrays += [1 / tails[ks], self.vectors[ks][:, :, :rank] * roots[:, None]]
        arrays = [ops.convert_to_tensor(a.astype("float32")) for a in arrays]
        score = functools.partial(
            *(_likeliest, len(by_pairs), tuple(groups)),
            *(self.prior.basis is not None, self.means.any().item()),
        )
        run = self.prior.compiled_function("likeliest", score)

        def search(patches):
            found = []
            for start in range(0, len(patches), ROWS):
                rows = patches[start : start + ROWS]
                filled = np.pad(rows, ((0, ROWS - len(rows)), (0, 0)))
                found.append(run(filled, *arrays)[: len(rows)])
            return order[np.concatenate(found)]

        return search

    # === The filter ===

    def _filtered(self, patches, choice, gains, offsets):
        """Patches of one component stand together in blocks, a matrix product each."""
        run = self.prior.compiled_function(
            "filtered", functools.partial(_filtered, self.prior.basis is not None)
        )
        order = np.argsort(choice, kind="stable")
        ends = np.cumsum(np.bincount(choice, minlength=len(self.values)))
        rows, which = [], []
        for k in np.unique(choice):
            own = order[ends[k - 1] if k else 0 : ends[k]]
            blocks = -(-len(own) // BLOCK)
            rows.append(np.resize(own, blocks * BLOCK) if len(own) else own)
            which += [k] * blocks
        rows, which = np.concatenate(rows).reshape(-1, BLOCK), np.array(which, "int32")
        filtered = np.empty_like(patches)
        for start in range(0, len(which), BLOCKS):
            some = np.minimum(np.arange(start, start + BLOCKS), len(which) - 1)
            filtered[rows[some]] = run(patches[rows[some]], which[some], gains, offsets)
        return filtered


def _likeliest(by_pairs, groups, remove_dc, shifted, patches, constant, linear, entries, *roots):
    """argmax_k of the joint log-density, of arrays as `_search` makes them: how many components go
    by pairs, and how many have thin roots, of which rank. What is compiled is of these shapes."""
    if remove_dc:
        patches = patches - ops.mean(patches, axis=1, keepdims=True)
    squares = [ops.matmul(_pairs(patches), entries)] if by_pairs else []
    norms = ops.sum(patches * patches, axis=1, keepdims=True)
    for (count, rank), inverse, root in zip(groups, roots[::2], roots[1::2]):
        root = ops.reshape(root, (count, -1, rank))
        squares.append(inverse * norms - squared_norms(patches, root))
    score = constant - 0.5 * ops.concatenate(squares, axis=1)
    if shifted:
        score = score + ops.matmul(patches, linear)
    return ops.argmax(score, axis=1)


def _pairs(x):
    """x_i x_j for all i <= j of tensors x (n, size): (n, size (size + 1) / 2)."""
    return ops.concatenate([x[:, i : i + 1] * x[:, i:] for i in range(x.shape[1])], axis=1)


def _entries(matrices):
    """Of symmetric matrices M (K, size, size), what makes x^T M x of the pairs of x: (pairs, K)."""
    i, j = np.triu_indices(matrices.shape[1])
    return matrices[:, i, j].T * np.where(i == j, 1, 2)[:, None]


def _filtered(remove_dc, patches, which, gains, offsets):
    """Blocks of patches (blocks, BLOCK, size), each by the gain of its component."""
    means = ops.mean(patches, axis=2, keepdims=True) if remove_dc else 0.0
    gain = ops.take(gains, which, axis=0)  # symmetric
    return means + ops.matmul(patches - means, gain) + ops.take(offsets, which, axis=0)[:, None]


class OfVAE:
    """The reconstruction of a patch by a VAE, weighed against the patch itself.

    z = (s^2 p + level^2 x) / (s^2 + level^2) for x the mean of p(x|latent), s^2 its variance where
    the likelihood has one, else 0.

    Args:
        prior: `BaseVAE` of patches without their mean, numbers (height, width).
    """

    def __init__(self, prior):
        self.prior, self.patch_shape = prior, _patch_shape(prior)

    def __call__(self, patches, level, choice=None):
        means = patches.mean(axis=1, keepdims=True)
        centred = patches - means
        x = self.prior.reconstruct(centred.reshape(-1, *self.prior.domain.shape), batch_size=ROWS)
        likelihood, variance = self.prior.likelihood, 0.0
        if isinstance(likelihood, Gaussian):
            variance = float(np.exp(ops.convert_to_numpy(likelihood.log_variance(None, None))))
        weight = level**2 / (level**2 + variance)
        return means + centred + weight * (x.reshape(len(patches), -1) - centred), None
