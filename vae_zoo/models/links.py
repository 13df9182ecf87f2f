"""What graph autoencoders share: which links are likely, given a graph."""

import numpy as np
from keras import ops
from scipy import special

from vae_zoo.parts import domains, graphs
from vae_zoo.parts.layers import check_sizes


class LinkPrediction:
    """A `LatentModel` of graphs whose links are as likely as inner products of the latents of their
    nodes are large; its `likelihood` is `graphs.InnerProducts`."""

    def _set_sizes(self, nodes, features, hidden, latent_dim):
        """Keeps the settings of both families; returns the domains of x and z, and that of y."""
        check_sizes(nodes=nodes, features=features or 1, hidden=hidden, latent_dim=latent_dim)
        of_features = None if features is None else domains.Arrays((nodes, features))
        return graphs.Graphs(nodes), domains.Arrays((nodes, latent_dim)), of_features

    def link_scores(self, x, i, j, y=None) -> np.ndarray | np.floating:
        """Log odds of links between nodes i and j, NumPy of the shape of i.

        Args:
            x: one graph, int (1, pairs, 3).
            i, j: ints, or int arrays of one shape.
            y: features (1, nodes, features), where the model takes some.
        """
        i, j = np.broadcast_arrays(i, j)
        for nodes in (i, j):
            if nodes.dtype.kind not in "iu" or not ((0 <= nodes) & (nodes < self.nodes)).all():
                raise ValueError(
                    f"Nodes must be ints from 0 to {self.nodes - 1}. Received: {nodes}"
                )
        z = self._latents_of_one(x, y)
        return np.sum(z[i] * z[j], axis=-1) + self._offset()

    def link_probability(self, x, i, j, y=None) -> np.ndarray | np.floating:
        """Probabilities of links between nodes i and j, NumPy of the shape of i; args as of
        `link_scores`."""
        return special.expit(self.link_scores(x, i, j, y))

    def missing_links(self, x, k=10, y=None) -> tuple:
        """The k most likely links that a graph does not have.

        Args:
            x, y: see `link_scores`; held-out links count as missing.
            k: int.

        Returns:
            pairs, NumPy int (k, 2), i < j, the most likely first; probabilities (k,). Fewer where
            there are not as many.
        """
        if k < 1:
            raise ValueError(f"`k` must be positive. Received: k={k}")
        z, table = self._latents_of_one(x, y), np.asarray(x)[0]
        seen = np.sort(table[table[:, 2] == graphs.SEEN, :2], axis=1)
        linked = [seen[seen[:, 0] == i, 1] for i in range(self.nodes)]
        pairs, scores = np.empty((0, 2), int), np.empty(0, "float32")
        for i in range(self.nodes - 1):
            row = z[i + 1 :] @ z[i]
            row[linked[i] - i - 1] = -np.inf
            best = np.argsort(-row, kind="stable")[:k]
            best = best[np.isfinite(row[best])]
            pairs = np.concatenate([pairs, np.stack([np.full_like(best, i), best + i + 1], 1)])
            scores = np.concatenate([scores, row[best]])
            keep = np.argsort(-scores, kind="stable")[:k]
            pairs, scores = pairs[keep], scores[keep]
        return pairs, special.expit(scores + self._offset())

    def _latents_of_one(self, x, y):
        z = self.encode(x, y)
        if len(z) != 1:
            raise ValueError(f"`x` must be one graph, of shape (1, pairs, 3). Received: {len(z)}")
        return z[0]

    def _offset(self):
        return ops.convert_to_numpy(self.likelihood.offset())
