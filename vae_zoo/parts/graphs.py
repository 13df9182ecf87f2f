"""Graphs: what one is, how its nodes hear of their neighbours, and how likely its links are.

A graph of N nodes comes as a table of pairs of nodes, int (pairs, 3): node, node, and what is known
of the pair. A pair that is not in the table has no link.
"""

import keras
import numpy as np
from keras import layers, ops

from vae_zoo.engine.replicas import replica_sum
from vae_zoo.parts.domains import Domain
from vae_zoo.parts.likelihoods import Likelihood

# What is known of a pair: linked, and the encoder sees it; linked, but held out; held out, and not
# linked; nothing, where tables of one batch are filled up.
SEEN, HELD_OUT, UNLINKED, FILLER = KINDS = range(4)

DENSE = 256  # nodes, up to which neighbours are summed by a matrix
BLOCK = 512  # rows of the matrix of all pairs that are computed at a time


@keras.saving.register_keras_serializable("vae_zoo")
class Graphs(Domain):
    """Undirected graphs without loops, tables of pairs (pairs, 3): node, node, kind (see `KINDS`).

    Args:
        nodes: int, N; isolated ones count.
    """

    dtype = "int32"

    def __init__(self, nodes):
        super().__init__((None, 3))
        self.nodes = nodes

    def __str__(self):
        return (
            f"graphs of {self.nodes} nodes, int of shape (batch, pairs, 3): node, node, and "
            f"{SEEN} (linked), {HELD_OUT} (linked, held out), {UNLINKED} (not linked, held out) or "
            f"{FILLER} (filler)"
        )

    def is_shape(self, shape):
        return len(shape) == 3 and shape[2] == 3

    def is_type(self, dtype):
        return "int" in dtype

    def check_values(self, x, what="`x`"):
        if not np.isin(x[..., 2], KINDS).all():
            raise ValueError(f"{what} must be {self}. Received: kinds {np.unique(x[..., 2])}")
        for pairs in x:
            pairs = np.sort(pairs[pairs[:, 2] != FILLER, :2].astype("int64"), axis=1)
            if not pairs.size:
                continue
            if not (0 <= pairs.min() and pairs.max() < self.nodes):
                raise ValueError(
                    f"{what}: nodes must be 0 to {self.nodes - 1}. Received: nodes from "
                    f"{pairs.min()} to {pairs.max()}"
                )
            if (loops := pairs[pairs[:, 0] == pairs[:, 1]]).size:
                raise ValueError(f"{what}: a node has no link to itself. Received: {loops[0]}")
            different, counts = np.unique(pairs, axis=0, return_counts=True)
            if (counts > 1).any():
                twice = different[counts > 1][0]
                raise ValueError(f"{what}: each pair once. Received twice: {twice}")

    def tensor(self, x):
        self.check(x)
        return ops.cast(x, "int32")

    def examples(self, n, rng):
        total = self.nodes * (self.nodes - 1) // 2
        size = min(2 * self.nodes, total)
        kinds = np.where(np.arange(size) < size // 2, SEEN, 1 + np.arange(size) % 2)
        tables = [pairs_of(rng.permutation(total)[:size], self.nodes) for _ in range(n)]
        return np.int32([np.column_stack([pairs, kinds]) for pairs in tables]).reshape(n, size, 3)

    def get_config(self):
        return {"nodes": self.nodes}


def pairs_of(numbers, nodes):
    """The pairs i < j of `nodes` nodes by their numbers 0 … N (N - 1) / 2 - 1, row by row of the
    upper triangle: NumPy ints (n,) -> (n, 2)."""
    rows = np.arange(nodes, dtype="int64")
    starts = rows * (2 * nodes - rows - 1) // 2
    i = np.searchsorted(starts[: nodes - 1], numbers, side="right") - 1
    return np.stack([i, numbers - starts[i] + i + 1], axis=-1)


def numbers_of(pairs, nodes):
    """The numbers of pairs i < j, the inverse of `pairs_of`: NumPy ints (n, 2) -> (n,)."""
    i, j = np.int64(pairs).T
    return i * (2 * nodes - i - 1) // 2 + j - i - 1


def _places(x, nodes):
    """Both nodes of all pairs of a batch, among the nodes of all its graphs one after the other:
    two tensors int32 (batch * pairs,)."""
    shift = nodes * ops.arange(ops.shape(x)[0], dtype="int32")[:, None]
    return [ops.reshape(x[..., k] + shift, (-1,)) for k in (0, 1)]


# === Encoder ===


class Neighbours:
    """D^-1/2 (A + I) D^-1/2, the adjacency with loops, of a batch of graphs (section 2.1).

    Sums over edges; of small graphs a product of matrices. Held-out links have no part in it.

    Args:
        x: tensor int32 (batch, pairs, 3).
        nodes: int.
    """

    def __init__(self, x, nodes):
        self.nodes, self.count = nodes, ops.shape(x)[0] * nodes
        i, j = _places(x, nodes)
        seen = ops.cast(ops.reshape(x[..., 2], (-1,)) == SEEN, "float32")
        self.senders, self.receivers = ops.concatenate([j, i]), ops.concatenate([i, j])
        seen = ops.concatenate([seen, seen])
        degrees = 1.0 + ops.segment_sum(seen, self.receivers, self.count)
        scale = ops.rsqrt(degrees)
        ends = [ops.take(scale, places) for places in (self.senders, self.receivers)]
        self.weights, self.own = seen * ends[0] * ends[1], (1.0 / degrees)[:, None]
        if nodes <= DENSE:
            cells = self.receivers * nodes + self.senders % nodes
            matrix = ops.segment_sum(self.weights, cells, self.count * nodes)
            self.matrix = ops.reshape(matrix, (-1, nodes, nodes))

    def sums(self, h):
        """The weighted sum over each node and its neighbours: (batch * nodes, units)."""
        if self.nodes <= DENSE:
            near = ops.matmul(self.matrix, ops.reshape(h, (-1, self.nodes, h.shape[-1])))
            return self.own * h + ops.reshape(near, (-1, h.shape[-1]))
        messages = ops.take(h, self.senders, axis=0) * self.weights[:, None]
        return self.own * h + ops.segment_sum(messages, self.receivers, self.count)


@keras.saving.register_keras_serializable("vae_zoo")
class GraphEncoder(layers.Layer):
    """Two graph convolutions: A' relu(A' X W_0) W_k, with A' of `Neighbours` and a W_k for each
    head. Without features X is the identity, and each node has a row of W_0.

    Args:
        nodes, hidden, latent_dim: ints.
        features: int, columns of X; None without.
        heads: names of the outputs.
    """

    def __init__(self, nodes, features, hidden, latent_dim, heads, **kwargs):
        super().__init__(**kwargs)
        self.nodes, self.features, self.heads = nodes, features, tuple(heads)
        self.first = self.add_weight((features or nodes, hidden), name="hidden")
        self.seconds = [self.add_weight((hidden, latent_dim), name=name) for name in heads]
        self.built = True

    def call(self, x, features=None):
        """Tensors int32 (batch, pairs, 3), and float32 (batch, nodes, features) where there are
        some -> a list of (batch, nodes, latent_dim), one a head."""
        neighbours, first = Neighbours(x, self.nodes), ops.convert_to_tensor(self.first)
        if self.features is None:
            h = ops.tile(first, (ops.shape(x)[0], 1))
        else:
            h = ops.matmul(ops.reshape(features, (-1, self.features)), first)
        h = neighbours.sums(ops.relu(neighbours.sums(h)))
        return [
            ops.reshape(ops.matmul(h, second), (-1, self.nodes, second.shape[-1]))
            for second in self.seconds
        ]


# === Decoder ===


@keras.saving.register_keras_serializable("vae_zoo")
class InnerProducts(Likelihood):
    """p(A|Z) = prod over pairs i < j of Bernoulli(A_ij; sigmoid(z_i . z_j + offset))     (eq. 2)

    Links are rare. So while training a link weighs as much as all it stands against, w = pairs
    without a link / pairs with one, and the whole is scaled to as many nats as there are pairs:

        pairs / (pairs without) sum w A_ij log p_ij + (1 - A_ij) log(1 - p_ij),  offset 0

    which are the weights of the paper's code, times the number of pairs. As there each node is
    linked to itself too, and counts half: it adds w / 2 log p_ii. Such a decoder says of a
    link how likely it is where links are as frequent as their absence. The offset -log w, of the
    frequency found in training, makes of this what it is in the graph: the honest bound has it.

    Its parameters are the latents of the nodes (..., batch, nodes, latent_dim), x is a tensor int32
    (batch, pairs, 3), in which held-out links are links.

    Args:
        momentum: float, decay of the running estimate of the frequency of links, per step.
    """

    unbounded = fitted = True

    def __init__(self, momentum=0.99, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum
        zeros = {"shape": (), "initializer": "zeros", "trainable": False}
        self.frequency = self.add_weight(name="frequency", **zeros)
        self.count = self.add_weight(name="count", **zeros)

    def offset(self):
        """float32 (), the log odds of a link where nothing is known of the nodes; 0 before the
        first step."""
        count = ops.convert_to_tensor(self.count)
        frequency = ops.where(count > 0, self.frequency / ops.maximum(count, 1e-6), 0.5)
        frequency = ops.clip(frequency, 1e-9, 1.0 - 1e-6)
        return ops.log(frequency) - ops.log(1.0 - frequency)

    def log_prob(self, x, parameters, batch_mean=None):
        z, offset = parameters, 0.0 if batch_mean else self.offset()
        lead, (nodes, size) = tuple(ops.shape(z)[:-3]), z.shape[-2:]
        ends = [ops.take(ops.reshape(z, (*lead, -1, size)), k, axis=-2) for k in _places(x, nodes)]
        scores = offset + ops.reshape(
            ops.sum(ends[0] * ends[1], axis=-1), (*lead, *ops.shape(x)[:2])
        )
        linked = ops.cast(x[..., 2] <= HELD_OUT, "float32")
        everywhere = _over_pairs(z, offset)
        if not batch_mean:
            return ops.sum(linked * scores, axis=-1) - everywhere
        links, pairs = ops.sum(linked, axis=-1), nodes * (nodes - 1) / 2
        others = ops.maximum(pairs - links, 1.0)
        weight = (others / ops.maximum(links, 1.0))[:, None]
        of_links = linked * (weight * ops.softplus(-scores) - ops.softplus(scores))
        of_itself = 0.5 * weight * ops.softplus(-ops.sum(ops.square(z), axis=-1))
        costs = everywhere + ops.sum(of_links, axis=-1) + ops.sum(of_itself, axis=-1)
        return -pairs / others * costs

    def error(self, x, parameters):
        """The frequency of links among all pairs: (batch,)."""
        nodes = parameters.shape[-2]
        links = ops.sum(ops.cast(x[..., 2] <= HELD_OUT, "float32"), axis=-1)
        return links / max(1.0, nodes * (nodes - 1) / 2)

    def update(self, errors, weights):
        total, count = replica_sum([ops.sum(weights * errors), ops.sum(weights)])
        for variable, new in ((self.frequency, total), (self.count, count)):
            variable.assign(self.momentum * variable + (1 - self.momentum) * new)

    def mean(self, parameters, channels=None):
        """Probabilities of all links: (..., batch, nodes, nodes), 0 on the diagonal."""
        scores = ops.matmul(parameters, ops.swapaxes(parameters, -1, -2)) + self.offset()
        return ops.sigmoid(scores) * (1.0 - ops.eye(parameters.shape[-2]))

    def sample(self, parameters, channels, draw):
        """Adjacencies 0 or 1, of the shape of `mean`."""
        mean = self.mean(parameters)
        upper = ops.triu(ops.cast(draw(ops.shape(mean), "uniform") < mean, "float32"), 1)
        return upper + ops.swapaxes(upper, -1, -2)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


def _over_pairs(z, offset):
    """sum over i < j of softplus(z_i . z_j + offset) of (..., nodes, size): (...).

    A block of rows at a time, from its diagonal on, so that half of the matrix is computed.
    """
    total = 0.0
    for start in range(0, z.shape[-2], BLOCK):
        rows, rest = z[..., start : start + BLOCK, :], z[..., start:, :]
        terms = ops.softplus(ops.matmul(rows, ops.swapaxes(rest, -1, -2)) + offset)
        width = rows.shape[-2]
        square = ops.sum(ops.sum(terms[..., :width], axis=-1), axis=-1)
        own = ops.sum(ops.softplus(ops.sum(ops.square(rows), axis=-1) + offset), axis=-1)
        total = total + (square - own) / 2 + ops.sum(ops.sum(terms[..., width:], axis=-1), axis=-1)
    return total
