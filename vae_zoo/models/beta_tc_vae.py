"""beta-TCVAE: a VAE that pays more for the dependence of its latents than for the rest of the KL.

Chen, Li, Grosse and Duvenaud, "Isolating Sources of Disentanglement in VAEs", NeurIPS 2018,
arXiv:1802.04942. Original code: rtqichen/beta-tcvae (MIT), read, not copied.
Differs from the paper: the KL is the closed form and the estimate of the total correlation alone is
added to it; in stratified sampling all other examples of a batch share what the paper gives one of
them, which has the same expectation and no special row.
"""

import keras
from keras import ops

from vae_zoo.models.conv_vae import ConvVAE
from vae_zoo.parts import distributions
from vae_zoo.parts.bounds import check_weight
from vae_zoo.parts.layers import check_sizes

SAMPLINGS = ("stratified", "weighted")


@keras.saving.register_keras_serializable("vae_zoo")
class BetaTCVAE(ConvVAE):
    """loss = -E_q log p(x|z) + KL(q(z|x) || p(z)) + (beta_tc - 1) TC(z)                    (eq. 4)

    The mean of the KL over the data is I(z; x) + TC(z) + sum_j KL(q(z_j) || p(z_j)) (eq. 2): what z
    says of x, the total correlation TC = KL(q(z) || prod_j q(z_j)), and how far each latent is from
    its prior. So the total correlation counts beta_tc times, the other two once. q(z), the mean of
    q(z|x_n) over all N examples, is estimated from a batch of M examples, of which one made z:

    stratified: q(z) = 1/N q(z|x_n) + (N - 1)/N mean_{m != n} q(z|x_m), unbiased     (appendix C.2)
    weighted:   q(z) = 1/(N M) sum_m q(z|x_m), a lower bound on average               (eq. 5, C.1)

    Args:
        shape, latent_dim, filters, units, activation, blocks, likelihood: see `ConvVAE`.
        dataset_size: int, N, examples of the training set.
        beta_tc: float, weight of the total correlation (beta in the paper: 1-10, 6 in its figures).
        sampling: "stratified" or "weighted".
        beta: weight of the whole KL, the total correlation included, for a warm-up; see `VAE`.
        prior, seed, skip_threshold: see `VAE`.

    Input, output, latent and logs as of `ConvVAE`. The loss couples the examples of a batch, of all
    devices; evaluation has the plain bound.

    Example:
        model = BetaTCVAE((32, 32, 1), latent_dim=2, dataset_size=len(images))
        model.compile("adam")
        model.fit(images, epochs=2)
        new = model.sample(16)
    """

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
        dataset_size,
        beta_tc=6.0,
        sampling="stratified",
        beta=1.0,
        prior=None,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        check_sizes(dataset_size=dataset_size)
        check_weight("beta_tc")(beta_tc)
        if sampling not in SAMPLINGS:
            raise ValueError(f"`sampling` must be one of {SAMPLINGS}. Received: {sampling!r}")
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
        self.dataset_size, self.beta_tc, self.sampling = dataset_size, beta_tc, sampling

    def objective(self, x, y=None, training=False):
        q = self.posterior(x, y, training)
        z = q.sample(self.draw, 1)
        parameters = self.likelihood_parameters(z, y, training)
        outputs = self.bound(x, parameters, self.kl(q, z, y), training)
        if training:
            log_q, log_q_each = self.aggregate(z[0], q)
            total_correlation = ops.sum(log_q, axis=-1) - ops.sum(log_q_each, axis=-1)
            weight = outputs["beta"] * (self.beta_tc - 1.0)
            outputs["loss"] = outputs["loss"] + weight * total_correlation
        return outputs

    def aggregate(self, z, q):
        """log q(z) (batch, 1) and log q(z_j) (batch, latent_dim) of z ~ q(z|x), estimated from the
        whole batch."""
        moments, weights = self.whole_batch(ops.stack([q.mean, q.log_var], axis=1))
        shares = self.shares(weights, self.own_places(z))
        mean, log_var = moments[:, 0], moments[:, 1]
        each = distributions.gaussian_log_prob(z[:, None], mean[None], log_var[None])
        log_shares = ops.log(ops.maximum(shares, 1e-30))[..., None]
        joint = ops.sum(each, axis=-1, keepdims=True)
        return tuple(ops.logsumexp(log_shares + part, axis=1) for part in (joint, each))

    def shares(self, weights, own):
        """What each example of the whole batch counts for in q(z) of each of these rows: float32
        (batch, whole batch).

        Args:
            weights: sample weights of the whole batch; an example of weight 0 is none.
            own: int (batch,), where these rows stand in the whole batch.
        """
        size, total = self.dataset_size, ops.sum(weights)
        if self.sampling == "weighted":
            return ops.broadcast_to(
                weights / (size * total), (ops.shape(own)[0], ops.shape(weights)[0])
            )
        is_own = ops.cast(ops.arange(ops.shape(weights)[0])[None] == own[:, None], "float32")
        others = weights * (1.0 - is_own)
        mass = ops.maximum(ops.sum(others, axis=1, keepdims=True), 1e-6)
        return is_own / size + (1.0 - 1.0 / size) * others / mass
