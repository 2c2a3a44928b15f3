"""All trainable parameters as one vector: one norm, one Adam step, instead of a dozen small ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def flatten_parameters(parameters: Iterable[nn.Parameter]) -> nn.Parameter:
    """Lay parameters and their gradients end to end in memory and return the vector that holds them.

    The parameters stay where they are and keep their shapes; they and their gradients become views of the vector and
    of its gradient. Gradients must from then on be zeroed in place, not dropped.

    Args:
        parameters: Of one dtype on one device.
    """
    parameters = list(parameters)
    with torch.no_grad():
        flat = nn.Parameter(torch.cat([p.flatten() for p in parameters]))
        flat.grad = torch.zeros_like(flat)
        offset = 0
        for parameter in parameters:
            end = offset + parameter.numel()
            parameter.data = flat.data[offset:end].view_as(parameter)
            parameter.grad = flat.grad[offset:end].view_as(parameter)
            offset = end
    return flat
