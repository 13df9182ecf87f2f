"""Measure a model on the test split of a data set: `python recipes/evaluate.py conv_vae_mnist`

`--help` lists the settings. The function behind it is `vae_zoo.evaluate.evaluate`.
"""

from vae_zoo import cli, distribute, load_model, runs, zoo
from vae_zoo.evaluate import evaluate

# isort: split
# After the package, which says in one line what is missing.
import keras


def evaluate_model(
    path,
    dataset: str = None,
    image_size: tuple[int, ...] = None,
    quadrants: int = None,
    importance_samples=1000,
    importance_images=1000,
    elbo_samples=16,
    factors=False,
    seed=0,
    json_file: str = None,
):
    """Measure a trained model on held-out images.

    Args:
        path: the name of an entry of the zoo, a run (a folder with model.keras in it), or a file
        dataset: what to measure on; a folder knows what its model was trained on
        image_size: height,width (or height,width,channels) that its images are brought to; a folder
            knows this too
        quadrants: 1 to 3, quarters of an image that are the condition of the rest; a folder knows
            this too
        importance_samples: k of the importance-weighted NLL; 0 leaves it out
        importance_images: test images that it is taken over, spread over all; the
            entries of the zoo have 10,000, which take up to an hour
        elbo_samples: draws of z per image that the ELBO is averaged over
        factors: measure what the latents say of the data set's factors (shapes, sprites, a .npz
            with factors), which takes minutes
        seed: of samples, mixtures and the untrained encoder
        json_file: where to write the numbers
    """
    path = zoo.find(path)
    data = {"dataset": dataset, "image_size": image_size, "quadrants": quadrants}
    data = {name: value for name, value in data.items() if value}
    if not dataset:
        data = runs.trained_on(path.parent) | data
    keras.utils.set_random_seed(seed)
    model = load_model(path, compile=False)
    numbers = evaluate(
        model,
        **data,
        importance_samples=importance_samples,
        importance_images=importance_images,
        elbo_samples=elbo_samples,
        classifier=zoo.classifier(data["dataset"], (*model.domain.shape, 1)[:3]),
        seed=seed,
        progress=cli.progress("importance sampling"),
        with_factors=factors,
    )
    cli.table(numbers)
    if json_file and distribute.is_main():
        cli.write_json(json_file, numbers)
    return numbers


if __name__ == "__main__":
    cli.run(evaluate_model, distribute=True)
