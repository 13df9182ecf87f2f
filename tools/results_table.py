"""Writes the README's table of results from the cards: python tools/results_table.py

No number is typed by hand; running it again changes nothing.
"""

import pathlib
import re
import sys

from vae_zoo import cli, zoo

ROOT = pathlib.Path(__file__).parent.parent
COLUMNS = {
    "-ELBO of bits": ("elbo if bits",),
    "-ELBO of 8-bit values": ("elbo if levels",),
    "-ELBO, a density": ("elbo if density",),
    "NLL": (r"nll(_iw\d+)?",),
    "NLL given the class": (r"nll_given_y(_iw\d+)?",),
    "bits/dim": (r"bits_per_dim(_iw\d+)?",),
    "relative MSE of bits": ("relative_mse if bits",),
    "relative MSE of pixels": ("relative_mse if pixels",),
    "active": ("active_units",),
    "codes used, perplexity": (r"codes_used\w*", r"perplexity\w*"),
    "bits per code: test, training": ("bits_per_code", "bits_per_code_train"),
    "cnn_fid: prior, uniform codes or mixture, floor": (
        "cnn_fid",
        "cnn_fid_(gaussian_mixture|uniform)",
        "cnn_fid_floor",
    ),
    "links: AUC, AP": (r"link_auc(_parts)?", r"link_ap(_parts)?"),
    "sketches: l_r, of a Markov chain": ("l_r", "l_r_markov_1"),
    "probe: codes, pixels, untrained": (
        "probe_accuracy",
        "probe_accuracy_pixels",
        "probe_accuracy_untrained",
    ),
}


def results_table(readme=str(ROOT / "README.md")):
    """Write the table of all entries into the README, between its two results marks.

    Args:
        readme: the file
    """
    cards = {name: zoo.card(name) for name in zoo.names()}
    lines = [
        f"| entry | data | weights | {' | '.join(COLUMNS)} | published | gap |",
        f"| --- | --- | --- | {' | '.join('---' for _ in COLUMNS)} | --- | --- |",
    ]
    notes = []
    for name, card in cards.items():
        cells = [
            ", ".join(_cell(card, p) or "-" for p in patterns) for patterns in COLUMNS.values()
        ]
        anchors = {k: n for k, n in card["metrics"].items() if "anchor" in n}
        paper = ", ".join(_published(k, n["anchor"]) for k, n in anchors.items())
        gap = ", ".join(_gap(k, n) for k, n in anchors.items() if n["anchor"]["compared"])
        cells = ["" if set(cell) <= set("-, ") else cell for cell in cells]
        entry = f"[`{name}`](saved_models/{name}/card.json)"
        weights = f"{card['parameters']:,}"
        lines.append(f"| {' | '.join([entry, card['dataset'], weights, *cells, paper, gap])} |")
        training = card["training"]
        notes.append(
            f"- `{name}`: `{card['command']}`, seed {training['seed']}, "
            f"{training['minutes']:g} minutes on {training['machine']}."
            + "".join(
                f" Published {_name(k)}: {n['anchor']['source']}; {n['anchor']['differs']}."
                for k, n in anchors.items()
            )
            + "".join(_over_seeds(k, n) for k, n in card["metrics"].items() if "seeds" in n)
        )
    protocols = (
        "Test split, numbers ± standard error over images; -ELBO and NLL in nats. An -ELBO of "
        "bits or of 8-bit values is one of a probability, one of a density may be negative: "
        "they do not compare. NLL: by importance sampling, in brackets the number of samples, "
        "their effective number (the median over images) and, where not all were taken, of test"
        " images; exact for a PixelCNN. bits/dim: of that bound where there is one, else of the"
        " ELBO. Active: latents whose posterior mean varies over images, of a hierarchy those "
        "with a KL above 0.01 nats. Relative MSE: share of the test images' variance that a "
        "reconstruction leaves, of bits where a model sees bits, else of grey levels and "
        "colours. Codes used, perplexity: of each grid of codes, from the top. cnn_fid: Fréchet"
        " distance to the test images of samples from the prior, of samples from uniform codes "
        "(VQ-VAE) or from a mixture of Gaussians fitted to the latents, and of validation "
        "images. Links: held-out ones told from pairs without one, the mean over random choices. "
        "l_r: nats of a sketch / N_max, given z where there is one, and the same of a chain of "
        "order 1. Probe: accuracy of a linear classifier of the latents, of pixels, of an "
        "untrained encoder's latents. Everything else of an entry stands in its card."
    )
    cli.replace_block(readme, "results", "\n".join([protocols, "", *lines, "", *notes]))
    return cards


def _over_seeds(metric, number):
    seeds = number["seeds"]
    values = ", ".join(f"{_shown(metric, value):.2f}" for value in seeds.values())
    return f" {_name(metric)} of seeds {', '.join(seeds)}: {values}."


def _shown(metric, value):
    """Lower is better: a bound on log p(x) is printed as one on -log p(x)."""
    return -value if metric == "elbo" else value


def _name(metric):
    return "-elbo" if metric == "elbo" else metric


def _published(metric, anchor):
    samples = f" ({anchor['samples']:,})" if anchor["samples"] else ""
    return f"{_name(metric)} {anchor['value']:g}{samples}"


def _gap(metric, number):
    """Ours less theirs, with the standard error of ours; theirs is seldom known."""
    gap = _shown(metric, number["value"]) - number["anchor"]["value"]
    return f"{gap:+.2f} ± {number['standard_error']:.2f}"


def _target(card):
    """What a model's likelihood is of: "bits", "levels" of 8 bits, or "density"."""
    likelihood = card["config"].get("likelihood")
    if "link_auc" in card["metrics"]:  # of one graph, by far the most of it without links
        return "links"
    if likelihood is None:  # a PixelCNN of bits has no ELBO, an autoencoder sees pixels
        return "density"
    name = likelihood if isinstance(likelihood, str) else likelihood["class_name"].lower()
    return {"bernoulli": "bits", "discretizedlogistic": "levels"}.get(
        name.replace("_", ""), "density"
    )


def _cell(card, pattern):
    """The number whose name is `pattern`; of several those of all grids, or the tightest bound."""
    pattern, _, target = pattern.partition(" if ")
    if target:
        own = _target(card)
        if target not in (own, "pixels" if own not in ("bits", "links") else None):
            return ""
    found = [number for name, number in card["metrics"].items() if re.fullmatch(pattern, name)]
    found = found if pattern.endswith(r"\w*") else found[-1:]
    return " and ".join(_number(card, pattern, number) for number in found)


def _number(card, pattern, number):
    value, error = number["value"], number.get("standard_error")
    value = _shown(pattern, value)
    text = f"{value:.3g}" if abs(value) < 10 else f"{value:.2f}"
    if isinstance(value, int):
        text = str(value)
    elif error is not None and abs(value) >= 10:
        text += f" ± {error:.2f}"
    if "samples" in number and pattern.startswith("nll"):
        samples, images = number["samples"], number["images"]
        every = images == card["metrics"]["elbo"]["images"]
        effective = f"{samples:,}; {number['effective_samples']:.1f}"
        text += f" ({effective})" if every else f" ({effective}; {images:,} images)"
    return text


if __name__ == "__main__":
    sys.exit(not cli.run(results_table))
