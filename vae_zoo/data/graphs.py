"""Graphs: files of edges and a generated one, and what of their links is held out."""

import dataclasses
import pathlib

import numpy as np

from vae_zoo import archives, files
from vae_zoo.parts.graphs import HELD_OUT, SEEN, UNLINKED, numbers_of, pairs_of

LISTS = (".edges", ".edgelist", ".txt", ".tsv")  # a pair of node numbers a line
KEYS = ("edges", "features", "feature_indices", "feature_indptr", "labels", "nodes", "shape")
MOST_NODES = 2**20
SHARES = {"validation": 0.05, "test": 0.1}  # of the edges


@dataclasses.dataclass
class Graph:
    """An undirected graph.

    Args:
        nodes: int; isolated ones count.
        edges: int32 (edges, 2), i < j, each once.
        features: float32 (nodes, columns), or None.
        labels: int32 (nodes,), -1 where there is none, or None.
    """

    nodes: int
    edges: np.ndarray
    features: np.ndarray | None = None
    labels: np.ndarray | None = None


def read(path):
    """A `Graph` from a file; links are taken without direction, loops are left out, and doubled
    edges count once.

    Args:
        path: of a `.npz` with `edges` (2, edges) or (edges, 2); with `features` (nodes, columns),
            or of those that are 1 `feature_indices` and `feature_indptr`; `labels` (nodes,); and
            the number of nodes as `nodes` or `shape[0]`, else the largest in `edges` and one more.
            Or of a text with two node numbers a line, separated by a blank, a tab or a comma.

    Raises:
        ValueError: in one line, if it is none of these.
    """
    path = pathlib.Path(path)
    try:
        if path.suffix.lower() == ".npz":
            with archives.arrays(path) as file:
                arrays = {key: file[key] for key in KEYS if key in file.files}
        else:
            lines = path.read_text().splitlines()
            lines = [line.split("#")[0].replace(",", " ").split() for line in lines]
            arrays = {"edges": np.array([line[:2] for line in lines if line], "int64")}
    except ValueError as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{path} must hold the edges of a graph, two ints each ({why})") from None
    try:
        return _graph(arrays, path)
    except (KeyError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} must hold a graph ({files.in_words(error)})") from error


def holds_graph(path):
    """Whether a file is one that `read` reads."""
    if path.suffix.lower() in LISTS:
        return True
    return "edges.npy" in archives.names(path)


def _graph(arrays, path):
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise ValueError(f"`{name}` must be numbers. Received: {path}, where it is not")
    edges = arrays["edges"]
    if edges.ndim == 2 and edges.shape[0] == 2 and edges.shape[1] != 2:
        edges = edges.T
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise ValueError(f"`edges` must be ints (edges, 2). Received: {path} with {edges.shape}")
    nodes = int(edges.max()) + 1 if edges.size else 0
    nodes = int(arrays["nodes"]) if "nodes" in arrays else nodes
    nodes = int(arrays["shape"][0]) if "shape" in arrays else nodes
    features, labels = _features(arrays, nodes), arrays.get("labels")
    nodes = len(features) if features is not None and "shape" not in arrays else nodes
    if nodes > MOST_NODES:
        raise ValueError(f"{path} has {nodes} nodes, above the limit of {MOST_NODES}")
    if edges.size and not (0 <= edges.min() and edges.max() < nodes):
        raise ValueError(
            f"Nodes must be 0 to {nodes - 1}. Received: {path} with nodes {edges.min()} to "
            f"{edges.max()}"
        )
    for name, column in (("features", features), ("labels", labels)):
        if column is not None and len(column) != nodes:
            raise ValueError(f"{path} has {nodes} nodes, and {name} of {len(column)}")
    edges = np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1)
    edges = np.unique(edges, axis=0).astype("int32").reshape(-1, 2)
    labels = None if labels is None else np.int32(labels)
    return Graph(nodes, edges, features, labels)


def _features(arrays, nodes):
    if "feature_indices" not in arrays:
        features = arrays.get("features")
        return None if features is None else np.float32(features)
    columns, starts = arrays["feature_indices"], arrays["feature_indptr"]
    width = int(arrays["shape"][1]) if "shape" in arrays else int(columns.max()) + 1
    features = np.zeros((nodes, width), "float32")
    features[np.repeat(np.arange(len(starts) - 1), np.diff(starts)), columns] = 1.0
    return features


def communities(nodes=200, groups=4, words=40, seed=0):
    """A generated graph: nodes of a few communities, linked more often within their own, each with
    words of which some are of its community.

    Returns:
        `Graph`, its labels the communities.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(nodes) % groups
    pairs = pairs_of(np.arange(nodes * (nodes - 1) // 2), nodes)
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    edges = pairs[rng.random(len(pairs)) < np.where(same, 0.15, 0.01)]
    own = labels[:, None] == np.arange(words) % groups
    features = rng.random((nodes, words)) < np.where(own, 0.3, 0.1)
    return Graph(nodes, np.int32(edges), np.float32(features), np.int32(labels))


def split(graph, name, seed=0):
    """One part of a graph for link prediction, as graph autoencoders take it.

    85 % of the edges are to train on. Of the rest, 5 % validate and 10 % test, each beside as many
    pairs without a link: no such pair is an edge of any part, or in both of them. The encoder sees
    the edges of training, and no others.

    Args:
        graph: `Graph`.
        name: "train", "validation" or "test".
        seed: int, of the parts.

    Returns:
        x, int32 (1, pairs, 3), see `parts.graphs`; y, the features float32 (1, nodes, columns), or
        None.

    Raises:
        ValueError: if there are too few edges, or too few pairs without one.
    """
    n, total = len(graph.edges), graph.nodes * (graph.nodes - 1) // 2
    counts = {part: max(1, int(share * n)) for part, share in SHARES.items()}
    held = sum(counts.values())
    if n <= held or total - n < held:
        raise ValueError(
            "A graph must have an edge for each part, and as many pairs without one as are held "
            f"out. Received: {graph.nodes} nodes with {n} edges of {total} pairs"
        )
    rng = np.random.default_rng(seed)
    edges = graph.edges[rng.permutation(n)]
    others = pairs_of(_without(numbers_of(edges, graph.nodes), total, held, rng), graph.nodes)
    start = {"validation": 0, "test": counts["validation"]}.get(name)
    tables = [(edges[held:], SEEN)]
    if start is not None:
        rows = slice(start, start + counts[name])
        tables += [(edges[rows], HELD_OUT), (others[rows], UNLINKED)]
    x = [np.column_stack([pairs, np.full(len(pairs), kind)]) for pairs, kind in tables]
    y = None if graph.features is None else graph.features[None]
    return np.concatenate(x).astype("int32")[None], y


def _without(taken, total, n, rng):
    """n different numbers 0 … total - 1 that are not `taken`."""
    found = np.empty(0, "int64")
    while len(found) < n:
        drawn = rng.integers(0, total, 2 * n + 10)
        found = np.concatenate([found, drawn[~np.isin(drawn, taken)]])
        found = found[np.sort(np.unique(found, return_index=True)[1])]
    return found[:n]
