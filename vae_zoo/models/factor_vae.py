"""FactorVAE: a VAE that pays for the dependence of its latents, as a second network estimates it.

Kim and Mnih, "Disentangling by Factorising", ICML 2018, arXiv:1802.05983.
Differs from the paper: the discriminator sees the latents of the same batch, not of a second one,
each moved by another number of rows.
"""

import keras
from keras import layers, ops

from vae_zoo.models.conv_vae import ConvVAE
from vae_zoo.parts.bounds import check_weight
from vae_zoo.parts.layers import check_sizes


@keras.saving.register_keras_serializable("vae_zoo")
class FactorVAE(ConvVAE):
    """loss = -E_q log p(x|z) + KL(q(z|x) || p(z)) + gamma TC(z)                            (eq. 2)

    The total correlation TC = KL(q(z) || prod_j q(z_j)) is the mean of log D(z) / (1 - D(z)) for a
    discriminator D that tells z ~ q(z) from latents of which each comes from another example
    (eq. 3), and so from prod_j q(z_j). D has its own loss, a cross-entropy, in the same backward
    pass, its own optimizer, and its own norm and flag in the step: the term of the VAE does not
    train D, nor the loss of D the encoder.

    Args:
        shape, latent_dim, filters, units, activation, blocks, likelihood: see `ConvVAE`.
        gamma: float, weight of the total correlation (10-100 in the paper).
        discriminator_units: ints, widths of the hidden layers of D (six of 1000 in the paper).
        beta: weight of the whole KL, see `VAE`.
        prior, seed, skip_threshold: see `VAE`; the threshold is that of each of the two.

    Input, output and latent as of `ConvVAE`.
    Logs: those of `ConvVAE`, and discriminator, its cross-entropy (nats, log 2 = 0.69 where it
    cannot tell), 0 in evaluation, which has the plain bound. The loss couples the examples of a
    batch, of all devices, of which there must be more than latents.

    Example:
        model = FactorVAE((32, 32, 1), latent_dim=2, discriminator_units=(64, 64))
        model.compile("adam")
        model.fit(images, epochs=2)
        new = model.sample(16)
    """

    logged = ("reconstruction", "kl", "elbo", "discriminator")

    def __init__(
        self,
        shape=(64, 64, 1),
        latent_dim=10,
        filters=(32, 32, 64, 64),
        units=256,
        activation="relu",
        blocks=0,
        likelihood="bernoulli",
        *,
        gamma=35.0,
        discriminator_units=(1000,) * 6,
        beta=1.0,
        prior=None,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        check_weight("gamma")(gamma)
        check_sizes(discriminator_units=discriminator_units)
        super().__init__(
            shape,
            latent_dim,
            filters=filters,
            units=units,
            activation=activation,
            blocks=blocks,
            likelihood=likelihood,
            beta=beta,
            prior=prior,
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.gamma, self.discriminator_units = gamma, tuple(discriminator_units)
        x = z = keras.Input((latent_dim,))
        for i, width in enumerate(self.discriminator_units):
            x = layers.Dense(width, dtype=self.dtype_policy, name=f"discriminator_{i}")(x)
            x = layers.LeakyReLU(0.2, dtype=self.dtype_policy)(x)
        logit = layers.Dense(1, dtype="float32", name="discriminator_logit")(x)
        self.discriminator = keras.Model(z, logit, name="discriminator")

    def compile(self, optimizer="adam", discriminator_optimizer=None, **settings):
        """Keras's `compile`, with an optimizer for the discriminator; None takes a copy of the
        other. Or one `keras.optimizers.MultiOptimizer` for both."""
        optimizer = keras.optimizers.get(optimizer)
        if not isinstance(optimizer, keras.optimizers.MultiOptimizer):
            own = discriminator_optimizer or optimizer.get_config()
            own = type(optimizer).from_config(own) if isinstance(own, dict) else own
            several = keras.optimizers.OptimizerMap(optimizer)
            for variable in self.discriminator.trainable_variables:
                several[variable.path] = own
            optimizer = keras.optimizers.MultiOptimizer(several)
        super().compile(optimizer, **settings)

    def players(self):
        own = self.discriminator.trainable_variables
        theirs = {id(variable) for variable in own}
        return [[v for v in self.trainable_variables if id(v) not in theirs], own]

    def objective(self, x, y=None, training=False):
        q = self.posterior(x, y, training)
        z = q.sample(self.draw, 1)
        parameters = self.likelihood_parameters(z, y, training)
        outputs = self.bound(x, parameters, self.kl(q, z, y), training)
        if not training:
            return {**outputs, "discriminator": ops.zeros_like(outputs["kl"])}
        z = z[0]
        with self.without_training(self.discriminator.trainable_variables):
            total_correlation = self.log_ratio(z)
        z = ops.stop_gradient(z)
        cross_entropy = 0.5 * (
            ops.softplus(-self.log_ratio(z)) + ops.softplus(self.log_ratio(self.permuted(z)))
        )
        loss = outputs["loss"] + outputs["beta"] * self.gamma * total_correlation + cross_entropy
        return {**outputs, "loss": loss, "discriminator": cross_entropy}

    def log_ratio(self, z):
        """log D(z) / (1 - D(z)) of latents (batch, latent_dim): (batch,)."""
        return self.discriminator(z)[:, 0]

    def permuted(self, z):
        """Latents (batch, latent_dim), the j-th of which is that of the example j + 1 places
        further in the whole batch, past those that do not count (algorithm 1)."""
        whole, weights = self.whole_batch(z)
        counts = ops.cast(weights > 0, "int32")
        size = ops.shape(counts)[0]
        first = ops.argsort(ops.arange(size, dtype="int32") + size * (1 - counts))  # that count
        rank = ops.take(ops.cumsum(counts), self.own_places(z)) - 1
        moved = rank[:, None] + ops.arange(1, self.latent_dim + 1, dtype="int32")[None]
        rows = ops.take(first, moved % ops.maximum(ops.sum(counts), 1))
        return ops.take_along_axis(whole, ops.cast(rows, "int32"), axis=0)
