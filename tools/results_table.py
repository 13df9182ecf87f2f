"""Writes what is said of the entries from their cards: python tools/results_table.py

The tables of `saved_models/README.md`, the short one of `README.md`, and a page for each entry. No
number is typed by hand; running it again changes nothing.
"""

import pathlib
import re
import sys

from vae_zoo import cli, zoo
from vae_zoo.lab.console import digits

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
    "factors: MIG-lib, MIG-chen, FactorVAE, DCI, SAP": (
        "mig_lib",
        "mig_chen",
        "factor_vae_score",
        "dci_disentanglement",
        "sap",
    ),
    "probe: codes, pixels, untrained": (
        "probe_accuracy",
        "probe_accuracy_pixels",
        "probe_accuracy_untrained",
    ),
}


PROTOCOLS = (
    "Test split, numbers ± standard error over images; -ELBO and NLL in nats. An -ELBO of bits or "
    "of 8-bit values is one of a probability, one of a density may be negative: they do not "
    "compare. NLL: by importance sampling, in brackets the number of samples, their effective "
    "number (the median over images) and, where not all were taken, of test images; exact for a "
    "PixelCNN and a mixture. bits/dim: of that bound where there is one, else of the ELBO. Active: "
    "latents whose posterior mean varies over images, of a hierarchy those with a KL above 0.01 "
    "nats. Relative MSE: share of the test images' variance that a reconstruction leaves, of bits "
    "where a model sees bits, else of grey levels and colours. Codes used, perplexity: of each grid"
    " of codes, from the top. cnn_fid: Fréchet distance to the test images of samples from the "
    "prior, of samples from uniform codes (VQ-VAE) or from a mixture of Gaussians fitted to the "
    "latents, and of validation images. Links: held-out ones told from pairs without one, the mean "
    "over random choices. l_r: nats of a sketch / N_max, given z where there is one, and the same "
    "of a chain of order 1. Factors: how far latents keep them apart, each by the code that it is "
    "named after; DCI is its disentanglement. Probe: accuracy of a linear classifier of latents, "
    "of pixels, of an untrained encoder's latents. Everything else of an entry stands in its card."
)
# What the short table has of an entry: the first of these that it was measured by.
HEADLINES = {
    r"nll(_iw\d+)?": "NLL, nats",
    r"nll_given_y(_iw\d+)?": "NLL given the class, nats",
    "link_auc_parts": "AUC of held-out links",
    "l_r": "l_r, nats a point",
    "mig_lib": "MIG-lib",
    "elbo": "-ELBO, nats",
    "relative_mse": "relative MSE",
}


def results_table(folder=str(ROOT)):
    """Write the tables of all entries, between their marks, and the page of each.

    Args:
        folder: where README.md and saved_models are
    """
    root, cards = pathlib.Path(folder), {name: zoo.card(name) for name in zoo.names()}
    parts = [PROTOCOLS]
    for dataset in sorted({card["dataset"] for card in cards.values()}):
        some = {name: card for name, card in cards.items() if card["dataset"] == dataset}
        parts += ["", f"## {dataset}", "", f"Terms of the data: {_terms(some)}.", ""]
        parts += [*_table(some), "", *(_note(name, card) for name, card in some.items())]
    cli.replace_block(root / "saved_models" / "README.md", "results", "\n".join(parts))
    rows = ["| entry | what | number | published |", "| --- | --- | --- | --- |"]
    rows += [_headline(name, card) for name, card in cards.items()]
    cli.replace_block(root / "README.md", "results", "\n".join(rows))
    for name, card in cards.items():
        page = root / "saved_models" / name / "README.md"
        page.parent.mkdir(exist_ok=True)
        cli.write_bytes(page, page_of(card).encode())
    return cards


def _terms(cards):
    return next(iter(cards.values()))["data_licence"]


def _table(cards):
    """Rows of a table: an entry each, and the columns that one of them has a number for."""
    rows = []
    for name, card in cards.items():
        cells = {
            column: ", ".join(_cell(card, pattern) or "-" for pattern in patterns)
            for column, patterns in COLUMNS.items()
        }
        anchors = {k: n for k, n in card["metrics"].items() if "anchor" in n}
        cells["published"] = ", ".join(_published(k, n["anchor"]) for k, n in anchors.items())
        compared = {k: n for k, n in anchors.items() if n["anchor"]["compared"]}
        cells["gap"] = ", ".join(_gap(k, n) for k, n in compared.items())
        cells = {column: "" if set(c) <= set("-, ") else c for column, c in cells.items()}
        rows.append({"entry": f"[`{name}`]({name})", "weights": f"{card['parameters']:,}"} | cells)
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _note(name, card):
    """How an entry was trained, and what its published numbers are."""
    training, metrics = card["training"], card["metrics"]
    return (
        f"- `{name}`: `{card['command']}`, seed {training['seed']}, {training['minutes']:g} "
        f"minutes on {training['machine']}."
        + "".join(
            f" Published {_name(k)}: {n['anchor']['source']}; {n['anchor']['differs']}."
            for k, n in metrics.items()
            if "anchor" in n
        )
        + "".join(_over_seeds(k, n) for k, n in metrics.items() if "seeds" in n)
        + (f" {card['note']}" if card.get("note") else "")
    )


def _headline(name, card):
    """A row of the short table."""
    metrics = card["metrics"]
    for pattern, words in HEADLINES.items():
        found = [key for key in metrics if re.fullmatch(pattern, key)]
        if found:
            number = metrics[found[-1]]
            value = _number(card, found[-1], number).partition(" (")[0]
            anchor = number.get("anchor")
            paper = f"{anchor['value']:g}" if anchor and anchor["compared"] else ""
            what = f"{card['class']}, {card['dataset']}"
            return f"| [`{name}`](saved_models/{name}) | {what} | {words} {value} | {paper} |"
    raise ValueError(f"The card of {name} has none of the numbers {list(HEADLINES)}")


def page_of(card):
    """An entry's page, a str: front matter as model hubs read it, how to load it, its numbers, its
    pictures, where it comes from."""
    name, training = card["name"], card["training"]
    rows = ["| number | value | unit | how |", "| --- | --- | --- | --- |"]
    for key, n in card["metrics"].items():
        if not isinstance(n["value"], list):
            spread = n.get("standard_error", n.get("standard_deviation"))
            value = " ".join(filter(None, digits(n["value"], spread)))
            how = (n["protocol"] or "").replace("|", r"\|")
            rows.append(f"| {key} | {value} | {n['unit'] or ''} | {how} |")
    files = sorted((zoo.FOLDER / name).iterdir())
    pictures = [path.name for path in files if path.suffix in (".png", ".gif")]
    return "\n".join(
        [
            "---",
            "library_name: keras",
            "license: apache-2.0",
            f"datasets: [{card['dataset']}]",
            f"tags: [vae_zoo, keras, generative-model, {card['class']}]",
            "---",
            "",
            f"# {name}",
            "",
            f"A `{card['class']}` of {card['parameters']:,} weights, trained on "
            f"{card['dataset']}, for TensorFlow, JAX and PyTorch.",
            "",
            "    from vae_zoo import zoo",
            f'    model = zoo.load("{name}")',
            "",
            f"Terms of the data: {card['data_licence']}.",
            "",
            f"Preparation: {card['preprocessing']}.",
            "",
            *rows,
            "",
            f"Trained in {training['minutes']:g} minutes on {training['machine']}, seed "
            f"{training['seed']}, by",
            "",
            f"    {card['command']}",
            "",
            *([card["note"], ""] if card.get("note") else []),
            *(f"![{picture.partition('.')[0]}]({picture})" for picture in pictures),
            "",
        ]
    )


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
    digits = 2 if abs(number["value"]) >= 1 else 3
    return f"{gap:+.{digits}f} ± {number['standard_error']:.{digits}f}"


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
    elif error is not None and (abs(value) >= 10 or pattern.startswith(("nll", "elbo"))):
        text += f" ± {error:.2f}"
    if "samples" in number and pattern.startswith("nll"):
        samples, images = number["samples"], number["images"]
        every = images == card["metrics"]["elbo"]["images"]
        effective = f"{samples:,}; {number['effective_samples']:.1f}"
        text += f" ({effective})" if every else f" ({effective}; {images:,} images)"
    return text


if __name__ == "__main__":
    sys.exit(not cli.run(results_table))
