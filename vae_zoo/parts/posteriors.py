"""q(z|x): what is drawn from, what a draw's density is, and how far it is from a prior; and the
prior p(z) of a hierarchy, which is its path."""

from keras import ops

from vae_zoo.parts import distributions


class DiagonalGaussian:
    """N(mean, exp(log_var)), independent in every latent.

    Args:
        mean, log_var: float32 (batch, *latent_shape).
    """

    def __init__(self, mean, log_var):
        self.mean, self.log_var = mean, log_var

    def sample(self, draw, num_samples=None):
        """z = mean + exp(log_var / 2) * noise (Kingma and Welling 2014, eq. 10).

        Args:
            draw: function of a shape -> N(0, 1) noise, `Trainable.draw`.
            num_samples: int, or None for one draw.

        Returns:
            (num_samples, batch, *latent_shape), or (batch, *latent_shape) of one draw.
        """
        lead = () if num_samples is None else (num_samples,)
        noise = draw((*lead, *ops.shape(self.mean)))
        return distributions.gaussian_sample(self.mean, self.log_var, noise)

    def log_prob(self, z):
        """log q(z|x) of z (…, batch, *latent_shape), summed over latents: (…, batch), nats."""
        log_prob = distributions.gaussian_log_prob(z, self.mean, self.log_var)
        return ops.sum(log_prob, axis=tuple(range(1 - len(self.mean.shape), 0)))

    def kl(self, mean=0.0, log_var=0.0):
        """KL(q || N(mean, exp(log_var))) of each latent: (batch, *latent_shape), nats."""
        return distributions.gaussian_kl(self.mean, self.log_var, mean, log_var)


class Certain:
    """All probability on one value, the codes of a quantiser: log q = 0.

    Args:
        mean: int32 (batch, *latent_shape), or a tuple of such, a grid each.
    """

    def __init__(self, mean):
        self.mean = mean

    def sample(self, draw, num_samples=None):
        """The value, or `num_samples` times the same: (num_samples, batch, *latent_shape)."""
        if num_samples is None:
            return self.mean
        return _each(lambda z: ops.repeat(z[None], num_samples, axis=0), self.mean)

    def log_prob(self, z):
        """Zeros (…, batch)."""
        first, mean = (t[0] if isinstance(t, tuple) else t for t in (z, self.mean))
        return ops.zeros(ops.shape(first)[: len(first.shape) - len(mean.shape) + 1], "float32")


class PathPosterior:
    """q(z|x) = prod_l q(z_l|x, z_>l), drawn group by group on the way down.

    Args:
        model: `HierarchicalVAE`.
        x, training: as its `descend` takes them.
    """

    def __init__(self, model, x, training=False):
        self.model, self.x, self.training = model, x, training

    @property
    def mean(self):
        """Of each group, given the means above it."""
        _, steps = self.model.descend(self.x, lambda i, q: q.mean, training=self.training)
        return tuple(z for *_, z in steps)

    def sample(self, draw, num_samples=None):
        """Latents of all groups, a tuple: (batch, …), or (num_samples, batch, …)."""
        how = (lambda i, q: q.sample(draw)), num_samples or 1, self.training
        _, steps = self.model.descend(self.x, *how)
        lead = () if num_samples is None else (num_samples,)
        return tuple(ops.reshape(z, (*lead, -1, *z.shape[1:])) for *_, z in steps)

    def log_prob(self, z):
        """log q(z|x) of a tuple (num_samples, batch, …): (num_samples, batch), nats."""
        num_samples = z[0].shape[0]
        flat = [ops.reshape(group, (-1, *group.shape[2:])) for group in z]
        _, steps = self.model.descend(self.x, lambda i, q: flat[i], num_samples, self.training)
        return ops.reshape(sum(q.log_prob(z) for q, _, z in steps), (num_samples, -1))


class Path:
    """p(z) = prod_l p(z_l|z_>l): a `HierarchicalVAE` as its own prior. (Keras does not look into
    such an object, and so the model does not hold itself.)"""

    def __init__(self, model):
        self.model = model

    @property
    def variables(self):
        """Of the prior of the top group, where it has one of its own."""
        return getattr(self.model.top_prior, "variables", ())

    def _flatten_layers(self):
        """As a Keras layer has it."""
        return getattr(self.model.top_prior, "_flatten_layers", list)()

    def get_config(self):
        return {}  # all of it is the model's

    def log_prob(self, z, y=None):
        """log p(z) of a tuple (..., *shape of each group): (...), nats."""
        shapes, priors = self.model.latent_shape, []
        lead = tuple(ops.shape(z[0])[: len(z[0].shape) - len(shapes[0])])
        flat = [ops.reshape(group, (-1, *shape)) for group, shape in zip(z, shapes)]

        def choose(i, h, p):
            priors.append(self.model.prior_of(i, p).log_prob(flat[i]))
            return flat[i]

        self.model.walk(choose, ops.shape(flat[0])[0])
        return ops.reshape(sum(priors), lead)

    def sample(self, n, y=None, seed=None):
        """Latents of all groups, a tuple of (n, …)."""
        return self.model.sample_latents(n, 0 if seed is None else seed)


def _each(function, z):
    return tuple(map(function, z)) if isinstance(z, tuple) else function(z)
