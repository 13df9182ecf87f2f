"""A recurrent layer by the engine's own kernel, where there is one."""

from vae_zoo.engine import BACKEND

if BACKEND == "torch":
    import torch

FUSED = BACKEND == "torch"  # on the others a scan is compiled


def fused_lstm(x, h, c, kernel, recurrent, bias):
    """An LSTM over whole sequences (PyTorch); gates in the order input, forget, candidate, output.

    All rows are computed: of packed sequences PyTorch has no fast kernel on a CPU.

    Args:
        x: float32 (batch, rows, inputs).
        h, c: float32 (batch, units), before the first row.
        kernel, recurrent, bias: (inputs, 4 units), (units, 4 units), (4 units,).

    Returns:
        h of each row (batch, rows, units).
    """
    weights = [kernel.T.contiguous(), recurrent.T.contiguous(), bias, torch.zeros_like(bias)]
    return torch.lstm(x, (h[None], c[None]), weights, True, 1, 0.0, False, False, True)[0]
