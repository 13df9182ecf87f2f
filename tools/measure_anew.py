"""Measures entries again, on their stored files: python tools/measure_anew.py

Their cards get the numbers of today's protocols; models and pictures stay as they are.
"""

import sys

from add_entry import measured

from vae_zoo import cli, zoo


def measure_anew(names: tuple[str, ...] = (), importance_images: int = None, seed=0):
    """Measure entries and put the numbers into their cards.

    Args:
        names: of entries; all if left out
        importance_images: test images of the importance-weighted NLL, spread over all; as many as
            the card has if left out
        seed: of samples, mixtures and the untrained encoder
    """
    for name in names or zoo.names():
        card = zoo.card(name)
        before = card["metrics"]
        bound = next((before[key] for key in before if "nll" in key and "_iw" in key), None)
        samples = bound["samples"] if bound else 0
        images = importance_images or (bound and bound["images"])
        size = card["settings"].get("image_size")
        model = zoo.load(name)
        how = samples, images, seed, size, "mig_lib" in before
        numbers, evaluation = measured(model, name, card["dataset"], *how)
        for metric, number in numbers.items():
            if "seeds" in before.get(metric, {}):  # of other runs, which were measured alike
                own = {str(card["training"]["seed"]): number["value"]}
                number["seeds"] = {**before[metric]["seeds"], **own}
            old = before.get(metric, {}).get("value")
            if not isinstance(number["value"], list):
                print(f"{name:<24} {metric:<26} {old} -> {number['value']}", flush=True)
        card |= {"metrics": numbers, "evaluation": evaluation, "config": model.get_config()}
        cli.write_json(zoo.FOLDER / name / "card.json", card)


if __name__ == "__main__":
    sys.exit(cli.run(measure_anew))
