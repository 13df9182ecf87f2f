"""Graph autoencoders: convolutions, likelihood, splits and links, by oracles."""

import itertools

import keras
import numpy as np
import pytest
from families import FAMILIES
from keras import ops
from scipy import stats
from test_families import array, filled

from vae_zoo import GraphAutoencoder, GraphVAE, data, graphs, zoo
from vae_zoo.data.graphs import Graph, communities, read, split
from vae_zoo.evaluate import measure

PATH = np.int32([[[0, 1, 0], [1, 2, 0], [2, 3, 0]]])  # 0 - 1 - 2 - 3


def adjacency(table, nodes, kinds=(graphs.SEEN,)):
    a = np.zeros((nodes, nodes))
    for i, j, kind in table:
        if kind in kinds:
            a[i, j] = a[j, i] = 1
    return a


@pytest.mark.parametrize("dense", [True, False])
def test_the_encoder_is_two_graph_convolutions(dense, monkeypatch):
    monkeypatch.setattr(graphs, "DENSE", 256 if dense else 0)
    family = FAMILIES["graph_vae"]
    model = filled(family.make(seed=1))
    first, *heads = map(array, model.encoder.trainable_variables)
    for table, features, mean in zip(family.x, family.y, model.encode(family.x, family.y)):
        a = adjacency(table, 6) + np.eye(6)
        scale = np.diag(a.sum(axis=0) ** -0.5)
        a = scale @ a @ scale
        expected = a @ np.maximum(a @ features @ first, 0) @ heads[0]
        np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)
    deviation = np.exp(a @ np.maximum(a @ features @ first, 0) @ heads[1])
    q = model.posterior(ops.convert_to_tensor(family.x), ops.convert_to_tensor(family.y))
    np.testing.assert_allclose(np.exp(0.5 * array(q.log_var)[-1]), deviation, rtol=1e-4)


def test_without_features_the_encoder_knows_nodes_by_number():
    plain, with_identity = GraphVAE(4, seed=1), GraphVAE(4, 4, seed=1)
    with_identity.set_weights(plain.get_weights())
    identity = np.eye(4, dtype="float32")[None]
    np.testing.assert_allclose(plain.encode(PATH), with_identity.encode(PATH, identity), atol=1e-6)


def test_probabilities_of_all_graphs_sum_to_one():
    pairs = graphs.pairs_of(np.arange(6), 4)
    rng = np.random.default_rng(0)
    every = np.array(list(itertools.product((graphs.SEEN, graphs.UNLINKED), repeat=6)))
    x = np.int32([np.column_stack([pairs, kinds]) for kinds in every])
    z = np.float32(np.repeat(rng.normal(size=(1, 4, 2)), len(x), axis=0))
    likelihood = graphs.InnerProducts()
    likelihood.update(ops.convert_to_tensor([0.2]), ops.convert_to_tensor([1.0]))
    log_probs = likelihood.log_prob(ops.convert_to_tensor(x), ops.convert_to_tensor(z))
    assert np.exp(np.float64(array(log_probs))).sum() == pytest.approx(1.0, rel=1e-5)
    # And by hand, with the frequency of links as the offset.
    logits = np.sum(z[0][pairs[:, 0]] * z[0][pairs[:, 1]], axis=1) + np.log(0.2 / 0.8)
    expected = stats.bernoulli.logpmf(every == graphs.SEEN, 1 / (1 + np.exp(-logits))).sum(axis=1)
    np.testing.assert_allclose(array(log_probs), expected, rtol=1e-4)


def test_a_link_weighs_as_much_as_what_it_stands_against(monkeypatch):
    """The cost of the original code, pos_weight and norm: pairs i < j, and half the diagonal."""
    monkeypatch.setattr(graphs, "BLOCK", 4)  # several, the last one smaller
    x, z = FAMILIES["graph_vae"].x, np.random.default_rng(0).normal(size=(3, 8, 6, 2))
    z = ops.convert_to_tensor(z.astype("float32"))
    found = array(graphs.InnerProducts().log_prob(ops.convert_to_tensor(x), z, lambda x: x))
    upper = np.triu_indices(6, 1)
    for k, table in enumerate(x):
        a = adjacency(table, 6, (graphs.SEEN, graphs.HELD_OUT))[upper]
        p = 1 / (1 + np.exp(-(array(z)[:, k] @ np.swapaxes(array(z)[:, k], 1, 2))))
        itself, p = np.diagonal(p, axis1=1, axis2=2), p[:, upper[0], upper[1]]
        weight, norm = (15 - a.sum()) / a.sum(), 15 / (15 - a.sum()) / 2
        cost = norm * np.mean(-weight * a * np.log(p) - (1 - a) * np.log(1 - p), axis=-1)
        cost = cost - norm * weight * np.log(itself).sum(axis=1) / 2 / 15
        np.testing.assert_allclose(found[:, k], -2 * 15 * cost, rtol=1e-4)


def test_training_finds_the_frequency_of_links():
    model = GraphAutoencoder(4, hidden=3, latent_dim=2, seed=0)
    assert array(model.likelihood.offset()) == 0
    model.compile(keras.optimizers.SGD(1e-3))
    model.fit(PATH, epochs=2, verbose=0)  # three links of six pairs …
    assert array(model.likelihood.offset()) == pytest.approx(0, abs=1e-5)
    model.fit(np.repeat(PATH[:, :1], 400, axis=0), batch_size=1, verbose=0)  # … and one of six
    assert array(model.likelihood.offset()) == pytest.approx(np.log(1 / 5), abs=0.1)


def test_rows_that_fill_up_a_table_and_the_order_of_nodes_change_nothing():
    filler = np.int32([[[0, 0, graphs.FILLER], [2, 2, graphs.FILLER]]])
    tables = [PATH, np.concatenate([PATH, filler], axis=1), PATH[:, ::-1, [1, 0, 2]]]
    for model in (GraphVAE(4, seed=1), GraphAutoencoder(4, seed=1)):
        with model.drawing(lambda shape, *_: ops.ones(shape)):
            losses = [array(model.objective(model.prepare(x))["loss"]) for x in tables]
        np.testing.assert_allclose(losses, losses[:1] * 3, rtol=1e-5)


# === Links ===


def test_probabilities_of_links_are_those_of_the_decoded_graph():
    model = GraphVAE(4, latent_dim=2, seed=1)
    decoded = model.reconstruct(PATH)[0]
    assert (np.diag(decoded) == 0).all() and (decoded == decoded.T).all()
    i, j = np.triu_indices(4, 1)
    found = model.link_probability(PATH, i, j)
    np.testing.assert_allclose(found, decoded[i, j], rtol=1e-5)
    missing = [k for k in np.argsort(-found) if j[k] - i[k] > 1]
    pairs, probabilities = model.missing_links(PATH, k=2)
    np.testing.assert_array_equal(pairs, np.stack([i, j], axis=1)[missing[:2]])
    np.testing.assert_allclose(probabilities, found[missing[:2]], rtol=1e-5)
    assert len(model.missing_links(PATH, k=10)[0]) == 3  # there are no more
    with pytest.raises(ValueError, match="0 to 3. Received: 4"):
        model.link_probability(PATH, 0, 4)
    with pytest.raises(ValueError, match="one graph.*Received: 2"):
        model.missing_links(np.concatenate([PATH, PATH]))


def test_samples_have_links_as_often_as_the_prior_says():
    model = GraphVAE(4, latent_dim=1, seed=1)
    links = model.sample(4000, seed=0, pixels=True)
    assert set(np.unique(links)) == {0, 1} and (links == np.swapaxes(links, 1, 2)).all()
    z = np.random.default_rng(0).normal(size=(2, 100_000))
    expected = np.mean(1 / (1 + np.exp(-z[0] * z[1])))
    assert links.sum(axis=(1, 2)).mean() / 12 == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("make", [GraphVAE, GraphAutoencoder])
def test_held_out_links_are_told_from_other_pairs(make):
    (x, y), test = (data.load("communities", part) for part in ("train", "test"))
    model = make(200, y.shape[-1], hidden=16, latent_dim=8, seed=0)
    model.compile(keras.optimizers.Adam(0.02))
    model.fit(x, y, epochs=40, verbose=0)
    np.testing.assert_array_equal(model.encode(x, y), model.encode(*test))  # held out is not seen
    numbers = measure(model, *test, elbo_samples=2)
    assert numbers["link_auc"]["value"] > 0.7 and numbers["link_ap"]["value"] > 0.65
    # The area by its meaning: how often a link is above another pair.
    table = test[0][0]
    of_links, of_others = (
        model.link_scores(test[0], *table[table[:, 2] == kind, :2].T, test[1])
        for kind in (graphs.HELD_OUT, graphs.UNLINKED)
    )
    area = np.mean(of_links[:, None] > of_others)
    assert numbers["link_auc"]["value"] == pytest.approx(area, abs=1e-6)


# === Data ===


@pytest.mark.parametrize("seed", [0, 1])
def test_no_part_of_a_graph_knows_of_another(seed):
    graph, tables = communities(), {}
    for name in data.SPLITS:
        x, y = data.load("communities", name, seed=seed)
        np.testing.assert_array_equal(y[0], graph.features)
        tables[name] = x[0]
    of_kind = {
        (name, kind): {tuple(pair) for pair in table[table[:, 2] == kind, :2].tolist()}
        for name, table in tables.items()
        for kind in range(3)
    }
    edges = {tuple(edge) for edge in graph.edges.tolist()}
    seen = of_kind["train", graphs.SEEN]
    assert seen == of_kind["validation", graphs.SEEN] == of_kind["test", graphs.SEEN]
    held = [of_kind[name, graphs.HELD_OUT] for name in ("validation", "test")]
    others = [of_kind[name, graphs.UNLINKED] for name in ("validation", "test")]
    assert [*map(len, held)] == [*map(len, others)] == [44, 88]
    assert seen | held[0] | held[1] == edges
    assert len(seen) + len(held[0]) + len(held[1]) == len(edges)
    assert not others[0] & others[1] and not (others[0] | others[1]) & edges


def test_pairs_have_numbers():
    i, j = np.triu_indices(7, 1)
    pairs = graphs.pairs_of(np.arange(21), 7)
    np.testing.assert_array_equal(pairs, np.stack([i, j], axis=1))
    np.testing.assert_array_equal(graphs.numbers_of(pairs, 7), np.arange(21))


def test_files_of_edges_are_read(tmp_path):
    text, archive = tmp_path / "a.edges", tmp_path / "b.npz"
    text.write_text("# from to\n0 1\n1\t0\n2,2\n4 1\n")  # both ways, a loop, 3 is isolated
    found = data.graph(text)
    assert found.nodes == 5 and found.features is None
    np.testing.assert_array_equal(found.edges, [[0, 1], [1, 4]])
    features = {"feature_indices": [1, 0, 2], "feature_indptr": [0, 1, 1, 3], "shape": [3, 4]}
    np.savez(archive, edges=[[0, 1, 1], [1, 2, 0]], labels=[0, 1, 1], **features)
    found = read(archive)
    np.testing.assert_array_equal(found.edges, [[0, 1], [1, 2]])
    np.testing.assert_array_equal(found.features, [[0, 1, 0, 0], [0] * 4, [1, 0, 1, 0]])
    np.testing.assert_array_equal(found.labels, [0, 1, 1])


BROKEN = {
    "two ints each": lambda path: path.with_suffix(".txt").write_text("0 one\n"),
    "0 to 2. Received.*nodes 0 to 3": lambda path: np.savez(path, edges=[[0, 3]], nodes=3),
    r"Received.*\(2, 3, 2\)": lambda path: np.savez(path, edges=np.zeros((2, 3, 2), int)),
    "3 nodes, and labels of 2": lambda path: np.savez(path, edges=[[0, 2]], labels=[0, 1]),
    "an edge for each part.*2 nodes with 1 edges": lambda path: np.savez(path, edges=[[0, 1]]),
    "an edge for each part.*4 nodes with 6 edges": lambda path: np.savez(
        path, edges=graphs.pairs_of(np.arange(6), 4)
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_is_no_graph_is_named(message, tmp_path):
    BROKEN[message](tmp_path / "graph.npz")
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match=message):
        data.load(path)


def test_what_no_graph_has_is_named():
    model = GraphVAE(4)
    wrong = {
        r"0 to 3. Received: nodes from 0 to 4": [[0, 4, 0]],
        r"Received: nodes from -1": [[-1, 2, 0]],
        r"no link to itself. Received: \[2 2\]": [[2, 2, 0]],
        r"Received twice: \[1 2\]": [[1, 2, 0], [2, 1, 1]],
        r"Received: kinds \[7\]": [[1, 2, 7]],
        r"Received: shape=\(1, 1, 2\)": [[1, 2]],
    }
    for message, table in wrong.items():
        for use in (model.fit, model.encode, model.evaluate):
            with pytest.raises(ValueError, match=message):
                use(np.int32([table]))
    with pytest.raises(ValueError, match="dtype=float32"):
        model.encode(np.float32(PATH))
    with pytest.raises(ValueError, match=r"\(batch, \*\(4, 5\)\).*Received: shape=\(1, 4, 3\)"):
        GraphVAE(4, 5).encode(PATH, np.zeros((1, 4, 3)))
    with pytest.raises(ValueError, match="nodes=0"):
        GraphVAE(0)


@pytest.mark.parametrize("table", [[[0, 1, 0]], [[0, 0, graphs.FILLER]]])
def test_a_graph_may_have_isolated_nodes_or_one(table):
    x = np.int32([table])
    model = GraphVAE(int(x.max()) + 4 if x[0, 0, 2] == 0 else 1, seed=0)
    model.compile("adam")
    logs = model.train_on_batch(x, return_dict=True)
    assert np.isfinite(logs["loss"]) and logs["skipped"] == 0
    assert np.isfinite(model.reconstruct(x)).all()


def test_a_golden_file_holds_one_graph():
    for name in ("graph_vae", "graph_autoencoder", "graph_vae_nodes"):
        model = filled(FAMILIES[name].make(seed=1))
        golden = zoo.golden(model)
        again = zoo.golden(model, golden["x"], golden.get("y"))
        assert set(again) == set(golden) and ("y" in golden) == (model.condition is not None)
        for key, value in golden.items():
            np.testing.assert_array_equal(again[key], value)
        decoded = model.decode(golden["latent"], golden.get("y"))[0]
        i, j, _ = golden["x"][0].T
        np.testing.assert_allclose(golden["reconstruction"][0], decoded[i, j], rtol=1e-5)


def test_splits_of_one_graph_are_of_a_seed():
    graph = Graph(20, np.int32(graphs.pairs_of(np.arange(0, 190, 5), 20)))
    a, b, c = (split(graph, "test", seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any() and split(graph, "test")[1] is None
