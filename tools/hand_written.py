"""Four VAEs written by hand for each engine: what `benchmark.py` measures the zoo against.

The networks are those of `DenseVAE(hidden=(500, 500), latent_dim=50, activation="relu")`, of
`ConvVAE(latent_dim=32)` and, for training only, of the first with a `RealNVP` as its prior and of a
small dense `HierarchicalVAE`. A step does what the zoo's does: draws bits from grey levels, samples
z, adds the KL (closed-form where it has one), updates by Adam and keeps the sum of the losses on
the device. What it lacks is all that the zoo is for:
likelihoods, priors and schedules to choose, skipped updates, sample weights, callbacks, saving.
"""

import functools
import math

import numpy as np

SIDE = 28
LOG_2PI = math.log(2 * math.pi)


class OneGroup:
    """A VAE with one group of latents, made of `encode` and `decode`."""

    def moments(self, nn, w, x):
        mean, log_var = nn.split(self.encode(nn, w, x))
        return mean, nn.clip(log_var, -20.0, 10.0)

    def bound(self, nn, w, x, normal):
        """Logits of one draw of the latents, and the KL, summed over the batch."""
        mean, log_var = self.moments(nn, w, x)
        logits = self.decode(nn, w, mean + nn.exp(log_var / 2) * normal(mean))
        return logits, 0.5 * nn.sum(mean**2 + nn.exp(log_var) - 1 - log_var)


class Dense(OneGroup):
    """784-500-500-50 and back."""

    latent_dim = 50
    shapes = ((784, 500), (500, 500), (500, 100), (50, 500), (500, 500), (500, 784))

    def encode(self, nn, w, x):
        x = nn.relu(nn.dense(nn.reshape(x, (-1, 784)), *w[0]))
        return nn.dense(nn.relu(nn.dense(x, *w[1])), *w[2], head=True)

    def decode(self, nn, w, z):
        x = nn.relu(nn.dense(nn.relu(nn.dense(z, *w[3])), *w[4]))
        return nn.dense(x, *w[5], head=True)


class DenseFlow(Dense):
    """`Dense` with a prior of eight affine couplings, each after a linear map of its own: W =
    L U diag(exp(a)), as in the zoo, but for its fixed rotations, which cost nothing here."""

    couplings, units = 8, 64
    shapes = Dense.shapes + couplings * (
        (50, 50),
        (1, 50),
        (25, units),
        (units, units),
        (units, 50),
    )

    def bound(self, nn, w, x, normal):
        mean, log_var = self.moments(nn, w, x)
        noise = normal(mean)
        z = h = mean + nn.exp(log_var / 2) * noise
        log_det, flow = 0.0, iter(w[len(Dense.shapes) :])
        for _ in range(self.couplings):
            triangles, log_scale = next(flow)
            row, bias = next(flow)
            h = h + h @ nn.tril(triangles)
            h = (h + h @ nn.triu(triangles)) * nn.exp(log_scale) + row[0] + bias
            seen, moved = nn.split(h)
            inner = nn.silu(nn.dense(nn.silu(nn.dense(seen, *next(flow))), *next(flow)))
            s, t = nn.split(nn.dense(inner, *next(flow), head=True))
            s = 2 - 4 / (1 + nn.exp(s))  # 2 tanh(s / 2)
            h = nn.concatenate([seen, moved * nn.exp(s) + t])
            log_det = log_det + nn.sum(s) + nn.sum(log_scale + 0 * h)
        rate = 0.5 * nn.sum(h**2 - noise**2 - log_var) - log_det
        return self.decode(nn, w, z), rate


class Conv(OneGroup):
    """Two strided convolutions and a dense layer, and back by pixel shuffles."""

    latent_dim = 32
    shapes = (
        ((3, 3, 1, 32), (3, 3, 32, 64), (3136, 256), (256, 64))  # encoder
        + ((32, 256), (256, 3136), (3, 3, 64, 128), (3, 3, 32, 4))  # decoder
    )

    def encode(self, nn, w, x):
        x = nn.relu(nn.conv(nn.grid(x, SIDE, 1), *w[0], strides=2))
        x = nn.relu(nn.conv(x, *w[1], strides=2))
        x = nn.relu(nn.dense(nn.reshape(x, (-1, 3136)), *w[2]))
        return nn.dense(x, *w[3], head=True)

    def decode(self, nn, w, z):
        x = nn.relu(nn.dense(nn.relu(nn.dense(z, *w[4])), *w[5]))
        x = nn.relu(nn.conv(nn.grid(x, SIDE // 4, 64), *w[6]))
        x = nn.shuffle(nn.conv(nn.shuffle(x), *w[7], head=True))
        return nn.reshape(x, (-1, 784))


class Ladder:
    """Three scales of one group each, `latents` on a path of `widths`, from the image up."""

    latents, widths = (32, 16, 8), (256, 128, 64)

    def __init__(self):
        shapes, before = [], 784
        for width in self.widths:
            shapes += [(before, width), (width, width), (width, width)]
            before = width
        shapes.append((1, before))  # the constant at the top
        for latents, width in zip(self.latents[::-1], self.widths[::-1]):
            if width != before:
                shapes.append((before, width))
            shapes += [(width, width), (width, 2 * latents)]  # prior
            shapes += [(2 * width, width), (width, 2 * latents)]  # posterior
            shapes += [(latents, width), (width, width), (width, width)]
            before = width
        self.shapes = [*shapes, (before, before), (before, before), (before, 784)]

    def bound(self, nn, w, x, normal):
        w, features = iter(w), []

        def cell(x, head=False):
            x = nn.dense(nn.silu(x), *next(w))
            return nn.dense(nn.silu(x), *next(w), head=head)

        h = x
        for _ in self.widths:
            h = nn.dense(h, *next(w))
            h = h + cell(h)
            features.append(h)
        rate, width = 0.0, self.widths[-1]
        h = nn.dense(0.0 * x[:, :1], *next(w))
        for here, feature in zip(self.widths[::-1], features[::-1]):
            if here != width:
                h, width = nn.dense(h, *next(w)), here
            mean, log_var = nn.split(cell(h, head=True))
            log_var = nn.clip(log_var, -10.0, 10.0)
            d_mean, d_log_var = nn.split(cell(nn.concatenate([h, feature]), head=True))
            q_log_var = nn.clip(log_var + d_log_var, -10.0, 10.0)
            d_log_var = q_log_var - log_var
            squares = nn.exp(d_log_var) + d_mean**2 * nn.exp(-log_var)
            rate = rate + 0.5 * nn.sum(squares - 1 - d_log_var)
            z = mean + d_mean + nn.exp(q_log_var / 2) * normal(mean)
            h = h + nn.dense(z, *next(w))
            h = h + cell(h)
        h = h + cell(h)
        return nn.dense(nn.silu(h), *next(w), head=True), rate


NETWORKS = {
    "dense_vae": Dense,
    "conv_vae": Conv,
    "flow_prior_vae": DenseFlow,
    "hierarchical_vae": Ladder,
}


def initial_weights(network, seed=0):
    """Pairs (kernel, bias) of float32 arrays; kernels uniform as by Glorot and Bengio 2010."""
    rng = np.random.default_rng(seed)
    for shape in network.shapes:
        area = math.prod(shape[:-2])
        limit = math.sqrt(6 / (area * (shape[-2] + shape[-1])))
        yield rng.uniform(-limit, limit, shape).astype("float32"), np.zeros(shape[-1], "float32")


class HandWritten:
    """What the three have in common: the loops over batches.

    Args:
        network: a key of `NETWORKS`.
        images: uint8 (n, 28, 28, 1), kept on the device.
        batch_size: int, of training.
        half: True computes in bfloat16 all but the heads.
        xla: True compiles by XLA, where that is a choice.
    """

    loops = ("",)

    def __init__(self, network, images, batch_size, half=False, xla=False):
        self.network, self.batch_size, self.half, self.xla = (
            NETWORKS[network](),
            batch_size,
            half,
            xla,
        )
        self.rng = np.random.default_rng(0)
        self.setup(images.reshape(len(images), 784))

    def epoch(self):
        """One pass over the images in random order; the mean loss, in nats."""
        n = len(self.images)
        order = self.rng.permutation(n)
        self.begin()
        for start in range(0, n, self.batch_size):
            self.step(order[start : start + self.batch_size])
        return float(self.total) / n

    def encode(self, x, batch_size=256):
        x = x.reshape(len(x), 784)
        return np.concatenate(
            [self.means(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
        )

    def sample(self, n, batch_size=256):
        return np.concatenate([self.new(batch_size) for _ in range(0, n, batch_size)])[:n]

    def log_likelihood(self, x, num_samples, batch_size=50, chunk=50):
        x, parts = x.reshape(len(x), 784), []
        for start in range(0, len(x), batch_size):
            batch = self.bits(x[start : start + batch_size])
            sums = [self.weights_sum(batch, chunk) for _ in range(num_samples // chunk)]
            parts.append(np.logaddexp.reduce(np.float64(sums), axis=0) - math.log(num_samples))
        return np.concatenate(parts)


class Torch(HandWritten):
    def setup(self, images):
        import torch
        from torch.nn import functional as F

        self.torch, self.F = torch, F
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.images = torch.from_numpy(images).to(self.device)

        def variable(array):
            if array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)
            return torch.tensor(array, device=self.device, requires_grad=True)

        self.w = [(variable(k), variable(b)) for k, b in initial_weights(self.network)]
        self.adam = torch.optim.Adam(
            [v for pair in self.w for v in pair], lr=1e-3, eps=1e-7, fused=True
        )

    # Primitives.

    def relu(self, x):
        return self.F.relu(x)

    def silu(self, x):
        return self.F.silu(x)

    def tril(self, x):
        return self.torch.tril(x, -1)

    def triu(self, x):
        return self.torch.triu(x, 1)

    def exp(self, x):
        return x.exp()

    def clip(self, x, low, high):
        return x.clamp(low, high)

    def split(self, x):
        return x.chunk(2, dim=1)

    def concatenate(self, parts):
        return self.torch.cat(parts, dim=1)

    def sum(self, x):
        return x.sum()

    def reshape(self, x, shape):
        return x.reshape(shape)

    def grid(self, x, side, channels):
        return x.reshape(-1, channels, side, side)

    def _cast(self, head, *tensors):
        dtype = self.torch.bfloat16 if self.half and not head else self.torch.float32
        return [t.to(dtype) for t in tensors]

    def dense(self, x, kernel, bias, head=False):
        x, kernel, bias = self._cast(head, x, kernel, bias)
        return self.torch.addmm(bias, x, kernel)

    def conv(self, x, kernel, bias, strides=1, head=False):
        x, kernel, bias = self._cast(head, x, kernel, bias)
        return self.F.conv2d(x, kernel, bias, stride=strides, padding=1)

    def shuffle(self, x):
        return self.F.pixel_shuffle(x, 2)

    # The model.

    def binarized(self, x):
        x = x.to(self.torch.float32) / 255
        return (self.torch.rand_like(x) < x).to(self.torch.float32)

    def moments(self, x):
        return self.network.moments(self, self.w, x)

    def begin(self):
        self.total = self.torch.zeros((), device=self.device)

    def step(self, rows):
        x = self.binarized(self.images[self.torch.from_numpy(rows).to(self.device)])
        logits, rate = self.network.bound(self, self.w, x, self.torch.randn_like)
        distortion = self.F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        loss = distortion + rate
        self.adam.zero_grad()
        (loss / len(x)).backward()
        self.adam.step()
        self.total += loss.detach()

    def means(self, x):
        with self.torch.inference_mode():
            x = self.torch.from_numpy(x).to(self.device).to(self.torch.float32) / 255
            return self.moments(x)[0].cpu().numpy()

    def new(self, n):
        with self.torch.inference_mode():
            z = self.torch.randn((n, self.network.latent_dim), device=self.device)
            return self.network.decode(self, self.w, z).sigmoid().cpu().numpy()

    def bits(self, x):
        return self.binarized(self.torch.from_numpy(x).to(self.device))

    def weights_sum(self, x, k):
        with self.torch.inference_mode():
            mean, log_var = self.moments(x)
            noise = self.torch.randn((k, *mean.shape), device=self.device)
            z = mean + (log_var / 2).exp() * noise
            logits = self.network.decode(self, self.w, z.reshape(-1, z.shape[-1]))
            logits = logits.reshape(k, len(x), -1)
            target = x.expand_as(logits)
            log_p = -self.F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            log_w = log_p.sum(-1) + 0.5 * (noise.square() + log_var - z.square()).sum(-1)
            return log_w.logsumexp(0).cpu().numpy()


class Jax(HandWritten):
    def setup(self, images):
        import jax

        self.jax, self.np = jax, jax.numpy
        self.images = jax.device_put(images)
        self.w = [(jax.device_put(k), jax.device_put(b)) for k, b in initial_weights(self.network)]
        zeros = functools.partial(jax.tree.map, self.np.zeros_like)
        self.state = (self.w, zeros(self.w), zeros(self.w), self.np.zeros(()), jax.random.key(0))
        self.update = jax.jit(self._update, donate_argnums=(0, 1))
        self.compiled_means = jax.jit(self._means)
        self.compiled_new = jax.jit(self._new, static_argnums=2)
        self.compiled_sum = jax.jit(self._weights_sum, static_argnums=3)
        self.key = jax.random.key(1)

    def relu(self, x):
        return self.jax.nn.relu(x)

    def silu(self, x):
        return self.jax.nn.silu(x)

    def tril(self, x):
        return self.np.tril(x, -1)

    def triu(self, x):
        return self.np.triu(x, 1)

    def exp(self, x):
        return self.np.exp(x)

    def clip(self, x, low, high):
        return self.np.clip(x, low, high)

    def split(self, x):
        return self.np.split(x, 2, axis=1)

    def concatenate(self, parts):
        return self.np.concatenate(parts, axis=1)

    def sum(self, x):
        return x.sum()

    def reshape(self, x, shape):
        return x.reshape(shape)

    def grid(self, x, side, channels):
        return x.reshape(-1, side, side, channels)

    def _cast(self, head, *arrays):
        dtype = "bfloat16" if self.half and not head else "float32"
        return [a.astype(dtype) for a in arrays]

    def dense(self, x, kernel, bias, head=False):
        x, kernel, bias = self._cast(head, x, kernel, bias)
        return x @ kernel + bias

    def conv(self, x, kernel, bias, strides=1, head=False):
        x, kernel, bias = self._cast(head, x, kernel, bias)
        layout = ("NHWC", "HWIO", "NHWC")
        x = self.jax.lax.conv_general_dilated(x, kernel, (strides,) * 2, "SAME", None, None, layout)
        return x + bias

    def shuffle(self, x):
        n, height, width, channels = x.shape
        x = x.reshape(n, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(n, 2 * height, 2 * width, channels // 4)

    def binarized(self, x, key):
        x = x.astype("float32") / 255
        return (self.jax.random.uniform(key, x.shape) < x).astype("float32")

    def moments(self, w, x):
        return self.network.moments(self, w, x)

    def log_p(self, x, logits):
        return (x * logits - self.jax.nn.softplus(logits)).sum(-1)

    def _loss(self, w, x, key):
        keys = iter(self.jax.random.split(key, 8))
        normal = lambda like: self.jax.random.normal(next(keys), like.shape)  # noqa: E731
        logits, rate = self.network.bound(self, w, x, normal)
        loss = rate - self.log_p(x, logits).sum()
        return loss / len(x), loss

    def _update(self, state, total, images, rows):
        w, m, v, t, key = state
        key, one, two = self.jax.random.split(key, 3)
        x = self.binarized(images[rows], one)
        (_, loss), g = self.jax.value_and_grad(self._loss, has_aux=True)(w, x, two)
        t = t + 1
        m = self.jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = self.jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate = 1e-3 * self.np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        w = self.jax.tree.map(lambda w, m, v: w - rate * m / (self.np.sqrt(v) + 1e-7), w, m, v)
        return (w, m, v, t, key), total + loss

    def begin(self):
        self.total = self.np.zeros(())

    def step(self, rows):
        self.state, self.total = self.update(self.state, self.total, self.images, rows)

    def _means(self, w, x):
        return self.moments(w, x.astype("float32") / 255)[0]

    def means(self, x):
        return np.asarray(self.compiled_means(self.state[0], x))

    def _new(self, w, key, n):
        z = self.jax.random.normal(key, (n, self.network.latent_dim))
        return self.jax.nn.sigmoid(self.network.decode(self, w, z))

    def _next_key(self):
        self.key, key = self.jax.random.split(self.key)
        return key

    def new(self, n):
        return np.asarray(self.compiled_new(self.state[0], self._next_key(), n))

    def bits(self, x):
        return self.binarized(x, self._next_key())

    def _weights_sum(self, w, x, key, k):
        mean, log_var = self.moments(w, x)
        noise = self.jax.random.normal(key, (k, *mean.shape))
        z = mean + self.np.exp(log_var / 2) * noise
        logits = self.network.decode(self, w, z.reshape(-1, z.shape[-1])).reshape(k, len(x), -1)
        log_w = self.log_p(x, logits) + 0.5 * (noise**2 + log_var - z**2).sum(-1)
        return self.jax.nn.logsumexp(log_w, axis=0)

    def weights_sum(self, x, k):
        return np.asarray(self.compiled_sum(self.state[0], x, self._next_key(), k))


class TensorFlow(HandWritten):
    loops = ("graph", "XLA")

    def setup(self, images):
        import tensorflow as tf

        self.tf = tf
        self.images = tf.constant(images)
        pairs = [(tf.Variable(k), tf.Variable(b)) for k, b in initial_weights(self.network)]
        self.w, self.flat = pairs, [v for pair in pairs for v in pair]
        zeros = lambda: [tf.Variable(tf.zeros_like(v)) for v in self.flat]  # noqa: E731
        self.m, self.v = zeros(), zeros()
        self.powers = [tf.Variable(0.9), tf.Variable(0.999)]
        self.total = tf.Variable(0.0)
        compiled = functools.partial(tf.function, jit_compile=self.xla, reduce_retracing=True)
        self.update, self.compiled_means = compiled(self._update), compiled(self._means)
        self.compiled_new, self.compiled_sum = compiled(self._new), compiled(self._weights_sum)

    def relu(self, x):
        return self.tf.nn.relu(x)

    def silu(self, x):
        return self.tf.nn.silu(x)

    def tril(self, x):
        return x - self.tf.linalg.band_part(x, 0, -1)

    def triu(self, x):
        return x - self.tf.linalg.band_part(x, -1, 0)

    def exp(self, x):
        return self.tf.exp(x)

    def clip(self, x, low, high):
        return self.tf.clip_by_value(x, low, high)

    def split(self, x):
        return self.tf.split(x, 2, axis=1)

    def concatenate(self, parts):
        return self.tf.concat(parts, axis=1)

    def sum(self, x):
        return self.tf.reduce_sum(x)

    def reshape(self, x, shape):
        return self.tf.reshape(x, shape)

    def grid(self, x, side, channels):
        return self.tf.reshape(x, (-1, side, side, channels))

    def _cast(self, head, *tensors):
        dtype = "bfloat16" if self.half and not head else "float32"
        return [self.tf.cast(t, dtype) for t in tensors]

    def dense(self, x, kernel, bias, head=False):
        x, kernel, bias = self._cast(head, x, kernel, bias)
        return self.tf.nn.bias_add(x @ kernel, bias)

    def conv(self, x, kernel, bias, strides=1, head=False):
        x, kernel, bias = self._cast(head, x, kernel, bias)
        return self.tf.nn.bias_add(self.tf.nn.conv2d(x, kernel, strides, "SAME"), bias)

    def shuffle(self, x):
        return self.tf.nn.depth_to_space(x, 2)

    def binarized(self, x):
        x = self.tf.cast(x, "float32") / 255
        return self.tf.cast(self.tf.random.uniform(self.tf.shape(x)) < x, "float32")

    def moments(self, x):
        return self.network.moments(self, self.w, x)

    def cross_entropy(self, x, logits):
        each = self.tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits)
        return self.tf.reduce_sum(each, axis=-1)

    def _update(self, rows):
        tf = self.tf
        x = self.binarized(tf.gather(self.images, rows))
        with tf.GradientTape() as tape:
            normal = lambda like: tf.random.normal(tf.shape(like))  # noqa: E731
            logits, rate = self.network.bound(self, self.w, x, normal)
            loss = rate + tf.reduce_sum(self.cross_entropy(x, logits))
            mean_loss = loss / tf.cast(tf.shape(x)[0], "float32")
        for w, m, v, g in zip(self.flat, self.m, self.v, tape.gradient(mean_loss, self.flat)):
            tf.raw_ops.ResourceApplyAdam(
                var=w.handle, m=m.handle, v=v.handle, grad=g, lr=1e-3, beta1=0.9, beta2=0.999,
                epsilon=1e-7, beta1_power=self.powers[0], beta2_power=self.powers[1],
            )  # fmt: skip
        for power, beta in zip(self.powers, (0.9, 0.999)):
            power.assign(power * beta)
        self.total.assign_add(loss)

    def begin(self):
        self.total.assign(0.0)

    def step(self, rows):
        self.update(self.tf.constant(rows))

    def _means(self, x):
        return self.moments(self.tf.cast(x, "float32") / 255)[0]

    def means(self, x):
        return self.compiled_means(self.tf.constant(x)).numpy()

    def _new(self, n):
        z = self.tf.random.normal((n, self.network.latent_dim))
        return self.tf.sigmoid(self.network.decode(self, self.w, z))

    def new(self, n):
        return self.compiled_new(n).numpy()

    def bits(self, x):
        return self.binarized(self.tf.constant(x))

    def _weights_sum(self, x, k):
        tf = self.tf
        mean, log_var = self.moments(x)
        noise = tf.random.normal((k, tf.shape(x)[0], self.network.latent_dim))
        z = mean + tf.exp(log_var / 2) * noise
        logits = self.network.decode(self, self.w, tf.reshape(z, (-1, self.network.latent_dim)))
        logits = tf.reshape(logits, (k, -1, 784))
        log_p = -self.cross_entropy(tf.broadcast_to(x, tf.shape(logits)), logits)
        log_w = log_p + 0.5 * tf.reduce_sum(noise**2 + log_var - z**2, axis=-1)
        return tf.reduce_logsumexp(log_w, axis=0)

    def weights_sum(self, x, k):
        return self.compiled_sum(x, k).numpy()


ENGINES = {"tensorflow": TensorFlow, "jax": Jax, "torch": Torch}
