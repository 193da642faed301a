"""Imports torch, looks at its devices, and holds the gradient of the DRPO loss to its formula."""

from __future__ import annotations

import warnings
from typing import Any

from drpo_cli.tools.doctor.probes import say

DELTA = 0.2
POLICY = (0.02, 0.3, 0.3, 0.45, 0.9, 0.9, 0.6)  # π of each token
BEHAVIOUR = (0.02, 0.1, 0.1, 0.5, 0.3, 0.3, 0.599)  # μ: at, within and beyond the trust region
ADVANTAGES = (1.0, 1.0, -1.0, 0.5, 2.0, -0.7, 0.0)


def main() -> None:
    """Says what torch is, what it runs on, and whether the loss is right."""
    import torch

    say(torch=torch.__version__, cuda=torch.version.cuda)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    say(gpus=_gpus() if available else [], why_none=[str(each.message) for each in caught])
    say(peers=_peers() if available else [])
    say(loss=loss_error("cuda" if available else "cpu"))


def loss_error(device: str) -> float:
    """Largest |∂loss/∂log π + A r w| over a few tokens, by autograd against the formula."""
    import torch

    from drpo_cli.objectives import drpo
    from drpo_cli.types import Tokens

    pi_T, mu_T, adv_T = (
        torch.tensor(values, dtype=torch.float64, device=device)
        for values in (POLICY, BEHAVIOUR, ADVANTAGES)
    )
    logp_T = pi_T.log().requires_grad_()
    loss = drpo.loss(drpo.Config(delta=DELTA), Tokens(logp_T, mu_T.log(), adv_T))
    loss.per_token_T.sum().backward()
    ratio_T = pi_T / mu_T
    weight_T = 1 - (adv_T * (ratio_T - 1)).sign() * (pi_T - mu_T).abs() / DELTA
    assert logp_T.grad is not None
    return float((logp_T.grad + adv_T * ratio_T * weight_T).abs().max())


def _gpus() -> list[dict[str, Any]]:
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append({"name": name, "free": free, "total": total})
    return found


def _peers() -> list[list[int]]:
    """Pairs of GPUs that reach each other's memory."""
    import torch

    count = torch.cuda.device_count()
    return [
        [i, j]
        for i in range(count)
        for j in range(i + 1, count)
        if torch.cuda.can_device_access_peer(i, j)
    ]


if __name__ == "__main__":
    main()
