"""Gaussian mixture: an exact density with one discrete latent, fitted by expectation-maximisation.

Dempster, Laird and Rubin 1977 (EM); Bishop, "Pattern Recognition and Machine Learning", 2006,
section 9.2 (its equations are cited below). As a prior over image patches: Zoran and Weiss, ICCV
2011; over the codes of an autoencoder: Ghosh et al. 2020, arXiv:1903.12436, section 4.
Differs from the papers: eigenvalues of covariances are bounded from below, and the M-step maximises
under that bound, so the likelihood never falls (a multiple of the identity, added, could lower it).
"""

import keras
import numpy as np
from keras import ops
from scipy import linalg

from vae_zoo.engine import checks, replicas
from vae_zoo.engine.batches import Batches
from vae_zoo.engine.noise import passing_noise
from vae_zoo.models.kinds import Density
from vae_zoo.parts import domains, em
from vae_zoo.parts.layers import check_sizes

START_EXAMPLES = 100  # a component, that a fit starts from


@keras.saving.register_keras_serializable("vae_zoo")
class GaussianMixture(Density):
    """p(x) = sum_k w_k N(x; m_k, C_k), full covariances                              (eq. 9.7)

    `fit` maximises sum_n log p(x_n) by expectation-maximisation: responsibilities
    r_nk = w_k N(x_n; m_k, C_k) / p(x_n) (eq. 9.13), then w_k, m_k and C_k of the examples so
    weighed (eq. 9.17, 9.19, 9.22). An epoch is one iteration over the whole set. Gradients train it
    too, as a prior that learns together with its model.

    Args:
        shape: tuple, of one example (flattened inside): of a patch, of the latents of a model.
        components: int, K (200 in Zoran and Weiss).
        zero_means: True holds all means at zero, as a patch prior does.
        remove_dc: True makes it a density of x without the mean of its entries, in the space of
            one dimension less where such x lie; so does what it samples.
        floor: float, the least eigenvalue of a fitted covariance, in squared units of x.
        seed, skip_threshold: see `Trainable`.

    Input: (batch, *shape), numbers of any range.
    Output: responsibilities, float32 (batch, components): the posterior of the component.
    Logs: nll, exact (nats per example).

    It plays the role of a prior: `log_prob` and `sample` are those of `priors.py`.

    Example:
        model = GaussianMixture((8, 8), components=10, zero_means=True, remove_dc=True)
        model.fit(patches, epochs=20)
        shares = model.predict(patches[:5])
    """

    def __init__(
        self,
        shape,
        components=10,
        zero_means=False,
        remove_dc=False,
        floor=1e-6,
        *,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        shape = domains.of_shape(shape).shape
        check_sizes(shape=shape, components=components)
        if not (size := int(np.prod(shape)) - remove_dc):
            raise ValueError(f"`shape` must hold more than the mean. Received: shape={shape}")
        if not 0 < floor < np.inf:
            raise ValueError(f"`floor` must be positive. Received: floor={floor}")
        domain = domains.Arrays(shape)
        super().__init__(
            domain, seed=seed, skip_threshold=skip_threshold, dtype=dtype or "float32", name=name
        )
        self.shape, self.components, self.floor = shape, components, floor
        self.zero_means, self.remove_dc, self.size = zero_means, remove_dc, size
        # Orthonormal columns that span what is left without the mean.
        self.basis = linalg.helmert(size + 1).T.astype("float32") if remove_dc else None
        zeros = {"initializer": "zeros", "dtype": "float32"}
        self.logits = self.add_weight((components,), name="logits", **zeros)
        self.means = None
        if not zero_means:
            self.means = self.add_weight((components, size), name="means", **zeros)
        # Upper-triangular factors of the precision: C_k^-1 = factor @ factor.T.
        self.factors = self.add_weight((components, size, size), name="factors", **zeros)
        self.factors.assign(np.tile(np.eye(size, dtype="float32"), (components, 1, 1)))

    @classmethod
    def fitted(cls, x, components=10, seed=0) -> keras.Model:
        """A mixture fitted to examples in memory (n, *shape), n > components, by scikit-learn."""
        model = cls(np.shape(x)[1:], components, seed=seed)
        found = em.by_scikit_learn(np.reshape(x, (len(x), -1)), components, seed)
        for variable, value in zip((model.logits, model.means, model.factors), found):
            variable.assign(value)
        return model

    # === The density ===

    def call(self, x):
        return ops.softmax(self.log_joint(self.prepare(x)), axis=-1)

    def coordinates(self, x):
        """float32 (..., size) of tensors (..., *shape): flat, in the basis without the mean where
        that is removed."""
        lead = em.known(x.shape[: len(x.shape) - len(self.shape)])
        flat = ops.reshape(x, (*lead, int(np.prod(self.shape))))
        if self.basis is None:
            return flat
        return ops.matmul(flat, ops.convert_to_tensor(self.basis))  # not NumPy's own product

    def from_coordinates(self, c) -> np.ndarray:
        """NumPy (n, *shape) of NumPy (n, size), the inverse of `coordinates`."""
        return (c if self.basis is None else c @ self.basis.T).reshape(-1, *self.shape)

    def log_joint(self, x):
        """log w_k + log N(x; m_k, C_k) of tensors (..., *shape): (..., components), nats."""
        return self._log_joint(self.coordinates(ops.cast(x, "float32")))

    def _log_joint(self, c):
        lead, size = em.known(c.shape[:-1]), self.size
        factors = ops.triu(ops.convert_to_tensor(self.factors))
        shifts = None
        if self.means is not None:
            shifts = ops.einsum("ki,kij->kj", ops.convert_to_tensor(self.means), factors)
        distances = em.squared_norms(ops.reshape(c, (-1, size)), factors, shifts)
        diagonal = ops.abs(ops.diagonal(factors, axis1=1, axis2=2))
        constant = ops.sum(ops.log(diagonal), axis=-1) - 0.5 * size * np.log(2 * np.pi)
        joint = ops.log_softmax(self.logits) + constant - 0.5 * distances
        return ops.reshape(joint, (*lead, self.components))

    def log_prob(self, x, y=None):
        return ops.logsumexp(self.log_joint(x), axis=-1)

    def responsibilities(self, x, batch_size=256) -> np.ndarray:
        """p(k|x) of NumPy examples: (n, components), each row of sum one (eq. 9.13)."""
        return self.run("call", self.call, *self._arrays(x, None), batch_size=batch_size)

    def sample(self, n, y=None, seed=None) -> np.ndarray:
        self.labels(y)
        checks.check_count(n)
        seed = passing_noise(seed)
        logits = ops.convert_to_tensor(self.logits)[None]
        which = ops.convert_to_numpy(keras.random.categorical(logits, n, "int32", seed=seed))[0]
        c = ops.convert_to_numpy(keras.random.normal((n, self.size), dtype="float32", seed=seed))
        means, factors = self._numpy()[1:]
        for k in np.unique(which):  # C = factor^-T factor^-1, so x = mean + factor^-T white
            c[which == k] = means[k] + linalg.solve_triangular(factors[k], c[which == k].T, "T").T
        return self.from_coordinates(c)

    def _numpy(self):
        """Weights, means and factors, NumPy float64."""
        logits, factors = (np.float64(ops.convert_to_numpy(v)) for v in (self.logits, self.factors))
        means = np.zeros((self.components, self.size))
        if self.means is not None:
            means += ops.convert_to_numpy(self.means)
        weights = np.exp(logits - np.logaddexp.reduce(logits))
        return weights, means, np.triu(factors)

    def spectra(self) -> tuple:
        """Weights (K,), means (K, size) and, of the covariances, eigenvalues (K, size) from the
        largest and eigenvectors (K, size, size), columns: NumPy float64, in `coordinates`."""
        weights, means, factors = self._numpy()
        vectors, roots, _ = np.linalg.svd(factors)
        return weights, means, roots[:, ::-1] ** -2.0, vectors[:, :, ::-1]

    # === Expectation-maximisation ===

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_data=None,
        initial_epoch=0,
        shuffle=False,
        start=None,
    ):
        """Expectation-maximisation: an epoch is one iteration over the whole set, in batches.

        Memory holds the sums over the set and one batch, whatever the size of the set. The loss of
        an epoch is that of the parameters at its start; `val_nll` is that at its end. The first
        epoch is preceded by a start where all components are alike, as in a new model: EM could
        never part them. What an epoch does is a function of the parameters and of the set, so a fit
        with `initial_epoch` goes on as it would have gone on.

        Args:
            x: NumPy examples (n, *shape), or a `PyDataset` of batches.
            y, shuffle: for Keras's sake; neither counts.
            batch_size: int, examples at a time (256).
            epochs, verbose, callbacks, initial_epoch: as Keras's `fit`.
            validation_data: None, held-out examples, a tuple that begins with them, or a dataset.
            start: "kmeans", clusters of the first examples, or "responsibilities", drawn; None
                takes the better one, which is the second where all means are zero.

        Returns:
            Keras's history: loss, nll (nats per example), and the same with `val_`.
        """
        start = start or em.STARTS[self.zero_means]
        if start not in em.STARTS:
            raise ValueError(f"`start` must be one of {em.STARTS}. Received: start={start!r}")
        if replicas.devices()[0] > 1:
            raise ValueError("Expectation-maximisation runs on one device: leave --distribute out")
        batches = self._batches(x, batch_size or 256)
        held = validation_data[0] if isinstance(validation_data, tuple) else validation_data
        held = None if held is None else self._batches(held, batch_size or 256)
        verbose = 1 if verbose == "auto" else verbose
        shown = {"verbose": verbose, "epochs": epochs, "steps": len(batches)}
        callbacks = keras.callbacks.CallbackList(callbacks, True, verbose != 0, self, **shown)
        self.stop_training = False
        callbacks.on_train_begin()
        if initial_epoch < epochs and self._alike():
            self._m_step(self._first_sums(batches, start))
        for epoch in range(initial_epoch, epochs):
            callbacks.on_epoch_begin(epoch)
            sums = self._sums(batches, callbacks)
            self._m_step(sums[1:])
            logs = _logs(sums, "")
            if held is not None:
                logs |= _logs(self._sums(held), "val_")
            callbacks.on_epoch_end(epoch, logs)
            if self.stop_training:
                break
        callbacks.on_train_end(logs if initial_epoch < epochs else None)
        return self.history

    def _batches(self, x, batch_size):
        if isinstance(x, keras.utils.PyDataset):
            return x
        return Batches(*self._arrays(x, None), batch_size=batch_size, shuffle=False)

    def _alike(self):
        return not any(np.ptp(part, axis=0).any() for part in self._numpy()[1:])

    def _examples(self, batch, length):
        """x of a batch, filled up to a length, so that one shape is compiled; what rows count."""
        x, _, weights = keras.utils.unpack_x_y_sample_weight(batch)
        x = ops.convert_to_numpy(x)
        weights = np.ones(len(x)) if weights is None else ops.convert_to_numpy(weights)
        rows = np.minimum(np.arange(max(length, len(x))), len(x) - 1)
        return x[rows], np.pad(weights, (0, len(rows) - len(x))).astype("float32")

    def _sums(self, batches, callbacks=None):
        """Sums over a set, float64: log p(x) (), r_nk (K,), r_nk x_n (K, size) and r_nk x_n x_n^T
        (K, upper triangle). Without callbacks only the first two."""
        step = self.compiled_function("em", self._e_step if callbacks else self._nll)
        sums, length = 0.0, 0
        for i in range(len(batches)):
            x, weights = self._examples(batches[i], length)
            length = len(x)
            new = [np.float64(part) for part in keras.tree.flatten(step(x, weights))]
            sums = new if i == 0 else [a + b for a, b in zip(sums, new)]
            if callbacks:
                callbacks.on_train_batch_end(i, _logs(sums, ""))
        batches.on_epoch_end()
        return sums

    def _nll(self, x, weights):
        return ops.sum(self.log_prob(self.prepare(x)) * weights), ops.sum(weights)

    def _e_step(self, x, weights):
        c = self.coordinates(self.prepare(x))
        joint = self._log_joint(c)
        log_prob = ops.logsumexp(joint, axis=-1)
        r = ops.transpose(ops.exp(joint - log_prob[:, None]) * weights[:, None])
        # Half of the products are enough: x_i x_j for i <= j.
        i, j = (index.astype("int32") for index in np.triu_indices(self.size))
        seconds = ops.matmul(r, ops.take(c, i, axis=1) * ops.take(c, j, axis=1))
        return ops.sum(log_prob * weights), ops.sum(r, axis=1), ops.matmul(r, c), seconds

    def _first_sums(self, batches, start):
        """What an E-step would return for the first examples, each of one component alone."""
        parts, n = [], 0
        for i in range(len(batches)):
            x, weights = self._examples(batches[i], 0)
            parts.append(x[weights > 0])
            n += len(parts[-1])
            if n >= START_EXAMPLES * self.components:
                break
        x = np.concatenate(parts)
        c = self.run("coordinates", lambda x: self.coordinates(self.prepare(x)), x)
        labels = em.first_labels(c, self.components, start, self.seed or 0)
        return em.sums_of_labels(c, labels, self.components)

    def _m_step(self, sums):
        _, means, factors = self._numpy()
        new = em.m_step(*sums, means, factors, self.floor, self.zero_means)
        for variable, value in zip((self.logits, self.means, self.factors), new):
            if variable is not None:
                variable.assign(value.astype("float32"))


def _logs(sums, prefix):
    nll = -float(sums[0] / np.sum(sums[1]))
    return {f"{prefix}loss": nll, f"{prefix}nll": nll}
