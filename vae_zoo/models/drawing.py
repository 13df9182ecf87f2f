"""What Sketch-RNN with and without an encoder share: drawing row by row."""

import numpy as np
from keras import ops


class Drawing:
    """A model of sketches that has a `decoder`, `strokes.StrokeDecoder`, and its `likelihood`."""

    def _drawn(self, begun, temperature, seed, z=None, batch_size=64):
        """Sketches (n, points + 1, 5), of which the first rows are `begun`, (n, rows, 5); of
        latents z (n, latent_dim), where the decoder takes some."""
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"`temperature` must be >= 0. Received: temperature={temperature}")
        begun = np.asarray(begun, "float32")
        if begun.ndim != 3 or begun.shape[2] != 5 or begun.shape[1] > self.points:
            raise ValueError(
                f"A begun sketch has up to {self.points} rows of 5. Received: {begun.shape}"
            )
        if (begun[..., 4] > 0.5).any():
            raise ValueError("A begun sketch has no end yet: leave out its rows of ends")
        n, kept = begun.shape[:2]
        if n == 0:
            raise ValueError("At least one sketch is needed. Received: none")
        whole = np.zeros((n, self.points + 1, 5), "float32")
        whole[:, :kept] = begun

        def draw(begun, kept, temperature, *z):
            how = temperature[0], *z
            return self.decoder.generate(self.likelihood, self.draw, begun, kept, *how)

        if not isinstance(seed, (int, np.integer, type(None))):  # a generator's next number
            seed = ops.convert_to_numpy(seed.next())[0]
        seed = int(np.random.randint(2**31 - 1) if seed is None else int(seed) % (2**31 - 1))
        columns = whole, np.full(n, kept, "int32"), np.full(n, temperature, "float32")
        columns = columns if z is None else (*columns, z)
        return self.run("drawn", draw, *columns, batch_size=batch_size, seed=seed)
