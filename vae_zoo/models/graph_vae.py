"""Variational graph autoencoder: latents of nodes, and links by their inner products.

Kipf and Welling, "Variational Graph Auto-Encoders", NeurIPS workshop 2016, arXiv:1611.07308.
Original code: github.com/tkipf/gae (MIT), read, not copied.
Differs from the paper: the bound is over pairs i < j; evaluation has no diagonal, and has the
frequency of links as an offset, by which the bound and the probabilities are those of the graph and
not of the balanced loss.
"""

import keras

from vae_zoo.models.kinds import BaseVAE
from vae_zoo.models.links import LinkPrediction
from vae_zoo.parts import graphs
from vae_zoo.parts.posteriors import DiagonalGaussian


@keras.saving.register_keras_serializable("vae_zoo")
class GraphVAE(LinkPrediction, BaseVAE):
    """loss = -E_q log p(A|Z) + beta KL(q(Z|X, A) || p(Z)),  q(z_i|X, A) = N(mean_i, var_i)  (eq. 3)

    mean = A' relu(A' X W_0) W_mean, with A' = D^-1/2 (A + I) D^-1/2, and the log of the deviation
    likewise; p(Z) is N(0, I), and p(A|Z) `graphs.InnerProducts`, whose links weigh more while
    training.

    A graph is one example; a batch holds graphs of as many nodes and rows, mostly one.

    Args:
        nodes: int, N.
        features: int, columns of X, which then comes as `y`; None without features, where X is the
            identity and the encoder knows its nodes by number.
        hidden: int, width of the first graph convolution (32 in the paper).
        latent_dim: int, latents of a node (16 in the paper).
        beta, prior, free_bits: see `BaseVAE`.
        seed, skip_threshold: see `Trainable`.

    Input: int (batch, pairs, 3), see `graphs.Graphs`; features as y, float (batch, nodes,
    features). Output: float32 (batch, nodes, nodes), probabilities of links. Latent: (batch, nodes,
    latent_dim).
    Logs: reconstruction (-E log p(A|Z) over pairs i < j), kl, elbo (nats per graph).

    Example:
        model = GraphVAE(nodes=4)
        graph = np.array([[[0, 1, 0], [1, 2, 0], [2, 3, 0]]])  # a path: pairs that are linked
        model.compile(keras.optimizers.Adam(0.01))
        model.fit(graph, epochs=2)
        missing, probabilities = model.missing_links(graph, k=2)
        probability = model.link_probability(graph, 0, 3)
    """

    def __init__(
        self,
        nodes,
        features=None,
        hidden=32,
        latent_dim=16,
        *,
        beta=1.0,
        prior=None,
        free_bits=0.0,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        domain, latents, of_features = self._set_sizes(nodes, features, hidden, latent_dim)
        heads = ("mean", "log_deviation")
        sizes = (nodes, features, hidden, latent_dim, heads)
        super().__init__(
            domain,
            latents,
            graphs.InnerProducts(),
            prior,
            beta,
            free_bits,
            condition=of_features,
            parts={"encoder": graphs.GraphEncoder(*sizes, dtype="float32")},
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.nodes, self.features = nodes, features
        self.hidden, self.latent_dim = hidden, latent_dim

    def posterior(self, x, y=None, training=False):
        mean, log_deviation = self.encoder(x, y)
        return DiagonalGaussian(mean, keras.ops.clip(2.0 * log_deviation, -20.0, 10.0))

    def likelihood_parameters(self, z, y=None, training=False):
        return z

    def objective(self, x, y=None, training=False):
        q = self.posterior(x, y, training)
        z = q.sample(self.draw, 1)
        return self.bound(x, z, self.kl(q, z), training)
