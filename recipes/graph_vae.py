"""Graph VAE: train on a graph, predict held-out links, draw. `--help` lists the settings.

Kipf and Welling 2016, arXiv:1611.07308.

    python recipes/graph_vae.py --dataset cora --parts 10
"""

import pathlib

import numpy as np

from vae_zoo import GraphAutoencoder, GraphVAE, cli, data, plots, runs
from vae_zoo.evaluate import measure

# isort: split
# After the package, which says in one line what is missing.
import keras


def graph_vae(
    dataset="communities",
    epochs=200,
    hidden=32,
    latent_dim=16,
    variational=True,
    features=True,
    parts=1,
    learning_rate=0.01,
    seed=0,
    output="output/graph_vae",
    resume=False,
    overwrite=False,
    tensorboard=False,
):
    """Train a variational graph autoencoder on 85 % of the links of a graph, and measure how well
    it tells a held-out 10 % from pairs without a link. What the last epoch ends with is kept.

    Args:
        dataset: communities (generated); cora, citeseer or another graph in $VAE_ZOO_DATA; a .npz
            with edges, or a list of edges (.edges, .edgelist, .tsv, .txt)
        epochs: steps, each of the whole graph
        hidden: width of the first graph convolution
        latent_dim: latents of a node
        variational: with a distribution of the latents; without it is a graph autoencoder
        features: of the nodes, where the graph has some
        parts: random choices of the links that are held out, each with a model of its own; the
            first one's is kept, and the mean over all is told
        learning_rate: of Adam
        seed: of weights and noise
        output: folder for the model, its numbers and its pictures
        resume: go on from the last epoch's end of a run that was killed
        overwrite: replace a run with other settings in output
        tensorboard: write the curves for TensorBoard too, to the folder tensorboard in output
    """
    settings = dict(locals())
    runs.claim(settings)
    graph = data.graph(dataset)
    print(f"{dataset}: {graph.nodes:,} nodes, {len(graph.edges):,} links")

    def trained(part):
        keras.utils.set_random_seed(seed + part)
        splits = [data.load(dataset, split, seed=part) for split in data.SPLITS]
        known = features and graph.features is not None
        splits = splits if known else [(x, None) for x, _ in splits]
        model = (GraphVAE if variational else GraphAutoencoder)(
            nodes=graph.nodes,
            features=graph.features.shape[1] if known else None,
            hidden=hidden,
            latent_dim=latent_dim,
            seed=seed + part,
        )
        model.compile(keras.optimizers.Adam(learning_rate))
        return model, splits

    model, (train, validation, test) = trained(0)
    how = {"batch_size": 1, "patience": epochs, "keep": "last"}
    history = runs.fit(model, train, validation, **how, **settings)
    numbers = runs.report(model, train, test, history, settings, keep="last")
    if graph.labels is not None:
        z, path = model.encode(*test)[0], pathlib.Path(output, "latents.png")
        plots.latent_scatter(z, graph.labels, path, "tsne", "Latents of the nodes, by class.")

    found = {name: [numbers[name]["value"]] for name in ("link_auc", "link_ap")}
    for part in range(1, parts):
        other, (train, _, test) = trained(part)
        other.fit(*train, batch_size=1, epochs=epochs, verbose=0)
        again = measure(other, *test)
        for name, values in found.items():
            values.append(again[name]["value"])
    if parts > 1:
        numbers |= {f"{name}_parts": over(values) for name, values in found.items()}
        print()
        cli.table({name: numbers[name] for name in numbers if name.endswith("_parts")})
        cli.write_json(pathlib.Path(output, "numbers.json"), numbers)
    return numbers


def over(values):
    """The mean over random choices of what is held out, and its standard error."""
    deviation = float(np.std(values, ddof=1))
    return {
        "value": float(np.mean(values)),
        "unit": "",
        "standard_error": deviation / len(values) ** 0.5,
        "standard_deviation": deviation,
        "values": values,
        "protocol": f"mean of {len(values)} random choices of held-out links, a model each",
    }


if __name__ == "__main__":
    cli.run(graph_vae)
