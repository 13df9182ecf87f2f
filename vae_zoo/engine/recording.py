"""Functions of explicit variables, and PyTorch's recorded step: a function and its gradient as a
flat list of tensor operations."""

import threading

import keras

from vae_zoo.engine import BACKEND

if BACKEND == "torch":
    import torch


# One function at a time is recorded: PyTorch's tracer keeps its state for the whole process.
RECORDING = threading.RLock()


def pure_function(function, variables, others):
    """`function` of explicit values of its variables; returns the new values of `others` too."""

    def pure(values, other_values, inputs):
        pairs = [*zip(variables, values), *zip(others, other_values)]
        # `collect_losses`: or activity regularisers would get lost.
        with keras.StatelessScope(pairs, collect_losses=True) as scope:
            scalar, outputs = function(*inputs)
        return scalar, (outputs, [scope.get_current_value(v) for v in others])

    return pure


def torch_gradients(scalar, values):
    # A variable used by no term (a frozen prior's, say) has no gradient: `allow_unused`.
    return torch.autograd.grad(scalar, values, allow_unused=True)


class Recordings:
    """On PyTorch, a function and its gradient as flat lists of tensor operations, one a shape.

    Keras's layers cost a third of a small step in Python. So the first call with inputs of new
    shapes is recorded, and later calls play it back: the same operations in the same order, and
    nothing between them. What reads a number on the host, as a dropout layer does its seed, cannot
    be recorded and runs layer by layer. As with a compiled function on the other backends, Python
    attributes are read once.

    Args:
        model: `Trainable`, whose `draw` makes all noise.
    """

    def __init__(self, model):
        self.model, self.players = model, {}

    def of(self, function, inputs, variables, others):
        """A function of `inputs` that does what `value_and_gradients` says, or None."""
        key = (*map(description, inputs), *map(id, variables))
        if key in self.players:
            return self.players[key]
        pure, assigned = pure_function(function, variables, others), []

        def differentiate(values, other_values, *inputs):
            with torch.enable_grad():
                values = [v.detach().requires_grad_() for v in values]
                scalar, (outputs, new) = pure(values, other_values, inputs)
                gradients = [
                    torch.zeros_like(v) if g is None else g
                    for g, v in zip(torch_gradients(scalar, values), values)
                ]
            assigned[:] = [i for i, v in enumerate(new) if v is not other_values[i]]
            return outputs, gradients, [new[i] for i in assigned]

        def arguments(inputs):
            return [v.value for v in variables], [v.value for v in others], *inputs

        play = recorded(differentiate, self.model, arguments(inputs))

        def assign_and_return(inputs):
            outputs, gradients, new = play(*arguments(inputs))
            for i, value in zip(assigned, new):
                others[i].assign(value)
            return outputs, gradients

        self.players[key] = play and assign_and_return
        return self.players[key]


def description(tensor):
    return None if tensor is None else (tensor.shape, tensor.dtype, tensor.device)


def recorded(function, model, arguments):
    """`function` as a flat list of operations (PyTorch); None if it cannot be recorded.

    `make_fx` runs it once and notes every operation. Noise is an argument of the recording, drawn
    by `model.draw` each time it is played.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # half a second, so not at import

    drawn = []

    def some(shape, distribution, alike):
        return getattr(keras.random, distribution)(shape, dtype="float32", seed=0)

    def note(*one):
        drawn.append((tuple(one[0]), *one[1:]))
        return some(*one)

    def of_noise(noise, *arguments):
        noise = iter(noise)
        with model.drawing(lambda *_: next(noise)):
            return function(*arguments)

    with RECORDING, torch.no_grad():
        with model.drawing(note):  # how many draws there are, of which shapes
            function(*arguments)
        noise = [some(*one) for one in drawn]
        try:
            graph = _streamlined(make_fx(of_noise)(noise, *arguments))
        except RuntimeError:  # a value was asked for
            return None

    def play(*arguments):
        with torch.no_grad():
            return graph([model.draw(*one) for one in drawn], *arguments)

    return play


def _streamlined(graph):
    """A recorded graph, which never runs under autograd, without detaching and copying, and with
    each matrix product and its bias as one operation; as it is if it writes to a tensor."""
    aten = torch.ops.aten
    if any(
        getattr(getattr(n.target, "_schema", None), "is_mutable", False) for n in graph.graph.nodes
    ):
        return graph

    def layout(node):
        return node.meta["val"].shape, node.meta["val"].stride()

    for node in graph.graph.nodes:
        if node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten.clone.default:
            source = node.args[0]
            while source.target is aten.clone.default:  # to another layout and back
                source = source.args[0]
            if layout(source) == layout(node):
                node.replace_all_uses_with(source)
        elif node.target is aten.add.Tensor and not node.kwargs:
            product, bias = node.args
            once = getattr(product, "target", None) is aten.mm.default and len(product.users) == 1
            if once and isinstance(bias, torch.fx.Node) and bias.meta["val"].ndim == 1:
                node.target, node.args = aten.addmm.default, (bias, *product.args)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
