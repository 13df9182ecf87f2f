"""IWAE: a VAE trained on the importance-weighted bound of k draws, tighter than the ELBO.

Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, arXiv:1509.00519.
Tucker, Lawson, Gu and Maddison, "Doubly Reparameterized Gradient Estimators for Monte Carlo
Objectives", ICLR 2019, arXiv:1810.04152 (DReG).
Differs from the papers: two hidden layers of gated units, as in `DenseVAE`. For two stochastic
layers and more see `HierarchicalVAE(num_samples=k)`.
"""

import keras
from keras import ops

from vae_zoo.models.dense_vae import DenseVAE
from vae_zoo.parts.bounds import weights_of
from vae_zoo.parts.distributions import gradient_scaled
from vae_zoo.parts.posteriors import DiagonalGaussian


@keras.saving.register_keras_serializable("vae_zoo")
class IWAE(DenseVAE):
    """loss = -log 1/k sum_i w_i, w_i = p(x, z_i) / q(z_i|x), z_i ~ q(z|x)  (eq. 8)

    The gradient for the decoder weighs that of each log w_i by its share w_i / sum_j w_j (eq. 14).
    The encoder's is the same, or, doubly reparametrised (DReG, eq. 8), the one that comes through
    z_i alone, weighed by the share's square: equal in expectation, and with growing k its
    signal-to-noise ratio grows where that of the plain one falls (Rainforth et al. 2018,
    arXiv:1802.04537). What is held in log q are the moments that belong to q; z moves with them.

    Args:
        shape, latent_dim, hidden, activation, likelihood, prior: see `DenseVAE`.
        num_samples: int, k (1, 5 and 50 in the paper); 1 is the ELBO with a sampled KL.
        doubly_reparametrized: bool, train the encoder by DReG.
        seed, skip_threshold: see `Trainable`.

    There is no KL to weigh: no beta but 1, and no free bits. Input, output and latent as of
    `DenseVAE`.
    Logs: reconstruction, kl, elbo of the same k draws, iwae (the bound); nats per example.

    Example:
        model = IWAE((28, 28, 1), latent_dim=2, num_samples=5)
        model.compile("adam")
        model.fit(images, epochs=2)
        bound = model.log_likelihood(images, num_samples=100)
    """

    logged = ("reconstruction", "kl", "elbo", "iwae")
    monitor = "iwae"

    def __init__(
        self,
        shape=(28, 28, 1),
        latent_dim=40,
        hidden=(300, 300),
        activation="gated",
        likelihood="bernoulli",
        *,
        num_samples=5,
        doubly_reparametrized=True,
        prior=None,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        super().__init__(
            shape,
            latent_dim,
            hidden,
            activation,
            likelihood,
            prior=prior,
            num_samples=num_samples,
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.doubly_reparametrized = doubly_reparametrized

    def objective(self, x, y=None, training=False):
        doubly = training and self.doubly_reparametrized
        draw = self.doubly_drawn if doubly else self.drawn
        return self.importance_bound(x, draw(x, y, self.num_samples, training), training)

    def doubly_drawn(self, x, y=None, num_samples=1, training=False):
        """`drawn`, with the gradient of DReG: none by way of the moments in log q, and the one by
        way of z_i multiplied by the share of w_i, with which the bound weighs it once more."""
        q = self.posterior(x, y, training)
        z = q.sample(self.draw, num_samples)
        fixed = DiagonalGaussian(ops.stop_gradient(q.mean), ops.stop_gradient(q.log_var))

        def drawn(z):
            parameters = self.likelihood_parameters(z, y, training)
            return parameters, self.prior.log_prob(z), fixed.log_prob(z)

        # The same numbers twice: a compiler computes them once.
        log_weights = weights_of(self.terms_of(x, drawn(ops.stop_gradient(z)), training))
        shares = ops.exp(log_weights - ops.logsumexp(log_weights, axis=0))
        shares = ops.stop_gradient(shares)
        return drawn(gradient_scaled(z, shares[..., None]))
