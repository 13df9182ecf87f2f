"""Graph autoencoder: the variational one without a distribution of its latents.

Kipf and Welling, "Variational Graph Auto-Encoders", NeurIPS workshop 2016, arXiv:1611.07308,
section 3 ("GAE"). Differs from the paper as `graph_vae.py` does.
"""

import keras

from vae_zoo.models.kinds import LatentModel
from vae_zoo.models.links import LinkPrediction
from vae_zoo.parts import graphs


@keras.saving.register_keras_serializable("vae_zoo")
class GraphAutoencoder(LinkPrediction, LatentModel):
    """loss = -log p(A|Z), Z = A' relu(A' X W_0) W_1, with A' = D^-1/2 (A + I) D^-1/2

    p(A|Z) is `graphs.InnerProducts`, whose links weigh more while training.

    Args:
        nodes, features, hidden, latent_dim, seed, skip_threshold: see `GraphVAE`.

    Input, output and latent as of `GraphVAE`.
    Logs: reconstruction (-log p(A|Z) over pairs i < j, nats per graph).

    Example:
        model = GraphAutoencoder(nodes=4)
        graph = np.array([[[0, 1, 0], [1, 2, 0], [2, 3, 0]]])
        model.compile(keras.optimizers.Adam(0.01))
        model.fit(graph, epochs=2)
        z = model.encode(graph)
    """

    logged = ("reconstruction",)

    def __init__(
        self,
        nodes,
        features=None,
        hidden=32,
        latent_dim=16,
        *,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        domain, latents, of_features = self._set_sizes(nodes, features, hidden, latent_dim)
        sizes = (nodes, features, hidden, latent_dim, ("code",))
        parts = {"encoder": graphs.GraphEncoder(*sizes, dtype="float32")}
        super().__init__(
            domain,
            latents,
            condition=of_features,
            parts={**parts, "likelihood": graphs.InnerProducts()},
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        self.nodes, self.features = nodes, features
        self.hidden, self.latent_dim = hidden, latent_dim

    def infer(self, x, y=None):
        (z,) = self.encoder(x, y)
        return z

    def generate(self, z, y=None):
        return self.likelihood.mean(z)

    def objective(self, x, y=None, training=False):
        z = self.infer(x, y)
        reconstruction = -self.likelihood.log_prob(x, z)
        weighted = self.batch_mean if training else None
        loss = -self.likelihood.log_prob(x, z, weighted) if training else reconstruction
        error = self.likelihood.error(x, z)
        return {"loss": loss, "reconstruction": reconstruction, "error": error}

    def update_state(self, outputs, weights, training):
        """Fits the frequency of links."""
        if training:
            self.likelihood.update(outputs["error"], weights)
