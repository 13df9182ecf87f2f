"""A recurrent layer by the engine's own kernel, where there is one."""

from vae_zoo.engine import BACKEND

if BACKEND == "torch":
    import torch

FUSED = BACKEND == "torch"  # on the others a scan is compiled


def fused_lstm(x, h, c, kernel, recurrent, bias, lengths=None):
    """An LSTM over whole sequences (PyTorch); gates in the order input, forget, candidate, output.

    Args:
        x: float32 (batch, rows, inputs).
        h, c: float32 (batch, units), before the first row.
        kernel, recurrent, bias: (inputs, 4 units), (units, 4 units), (4 units,).
        lengths: None, or int (batch,), rows of each that count: only these are computed, and h is 0
            where a sequence has ended.

    Returns:
        h of each row (batch, rows, units).
    """
    weights = [kernel.T.contiguous(), recurrent.T.contiguous(), bias, torch.zeros_like(bias)]
    state, rows = (h[None], c[None]), x.shape[1]
    if lengths is None:
        return torch.lstm(x, state, weights, True, 1, 0.0, False, False, True)[0]
    order = torch.argsort(lengths, descending=True)
    of_rows = lengths[order].clamp(min=1).cpu()
    packed = torch.nn.utils.rnn.pack_padded_sequence(x[order], of_rows, batch_first=True)
    state = tuple(s[:, order].contiguous() for s in state)
    made, *_ = torch.lstm(packed.data, packed.batch_sizes, state, weights, True, 1, 0.0, False, False)
    packed = torch.nn.utils.rnn.PackedSequence(made, packed.batch_sizes)
    made, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=rows)
    return made[torch.argsort(order)]
