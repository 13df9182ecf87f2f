"""VQ-VAE-2: two grids of discrete codes, a coarse one for the whole and a fine one for detail.

Razavi, van den Oord and Vinyals, "Generating Diverse High-Fidelity Images with VQ-VAE-2",
NeurIPS 2019, arXiv:1906.00446.
Differs from the paper: one decoding of the top grid serves both the bottom encoder and the decoder;
the priors are gated PixelCNNs without attention; terms are sums, as in `VQVAE`.
"""

import keras
from keras import layers, ops

from vae_zoo.models.vq_vae import VQVAE
from vae_zoo.parts import networks


@keras.saving.register_keras_serializable("vae_zoo")
class VQVAE2(VQVAE):
    """loss = -log p(x|top, bottom) + the codebook and commitment terms of both grids  (section 3.1)

    The encoder's features make the top codes, on a grid half as large; features and decoded top
    codes together make the bottom codes, which so hold only what the top ones do not; the decoder
    sees both. Its prior is `priors.TopDown`: p(top) p(bottom|top).

    Args:
        shape: (height, width, channels).
        codes, code_dim: ints, of both codebooks (512 and 64 in the paper).
        filters: ints, channels after each halving: the bottom grid is the image after all of them,
            the top grid half of that.
        all others: see `VQVAE`.

    Input and output: as of `VQVAE`. Latent: a pair of codes, int32, of top and bottom grid.
    Logs: what `VQVAE` does; perplexity and codes_used of each grid.

    Example:
        model = VQVAE2((32, 32, 3), codes=32, code_dim=8, filters=(8, 16))
        model.compile("adam")
        model.fit(images, epochs=2)
        top, bottom = model.encode(images)
        made = model.decode((top, bottom))
    """

    grid_names = ("_top", "_bottom")

    def __init__(
        self,
        shape=(64, 64, 3),
        codes=256,
        code_dim=32,
        filters=(32, 64),
        blocks=1,
        activation="relu",
        likelihood="gaussian",
        commitment=10.0,
        averaged=False,
        decay=0.99,
        cosine=False,
        restart=0.03,
        levels=None,
        prior=None,
        *,
        shifted=False,
        seed=None,
        skip_threshold=None,
        dtype=None,
        name=None,
    ):
        super().__init__(
            shape,
            codes,
            code_dim,
            filters,
            blocks,
            activation,
            likelihood,
            commitment,
            averaged,
            decay,
            cosine,
            restart,
            levels,
            prior,
            shifted=shifted,
            seed=seed,
            skip_threshold=skip_threshold,
            dtype=dtype,
            name=name,
        )
        code_dim = self.codebooks[0].dim  # as finite scalars have it
        rows, columns = self.latent_shape[1]
        half = {
            "filters": self.filters[-1:],
            "units": None,
            "activation": self.activation,
            "blocks": self.blocks,
            "dtype": dtype,
        }
        features = (rows, columns, self.filters[-1])
        self.top_encoder = networks.conv_encoder(features, code_dim, heads=("top",), **half)
        self.top_decoder = networks.conv_decoder(code_dim, features, code_dim, **half)
        self.bottom_encoder = layers.Dense(code_dim, dtype="float32", name="bottom")
        self.bottom_encoder.build((None, rows, columns, self.filters[-1] + code_dim))

    @staticmethod
    def _channels(code_dim, filters):
        return filters[-1], 2 * code_dim

    @staticmethod
    def _grids(rows, columns):
        return [(-(-rows // 2), -(-columns // 2)), (rows, columns)]

    def quantized(self, x, training=False):
        top_codebook, bottom_codebook = self.codebooks
        features = self.encoder(x, training=training)
        top = z, _, e = top_codebook.quantized(self.top_encoder(features, training=training))
        decoded = self.top_decoder(z + ops.stop_gradient(e - z), training=training)
        both = ops.concatenate([ops.cast(features, "float32"), decoded], axis=-1)
        return [top, bottom_codebook.quantized(self.bottom_encoder(both))]

    def decoded(self, vectors, training=False):
        top, bottom = vectors
        both = [bottom, self.top_decoder(top, training=training)]
        parameters = self.decoder(ops.concatenate(both, axis=-1), training=training)
        return ops.cast(parameters, "float32")
