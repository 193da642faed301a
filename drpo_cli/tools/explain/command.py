"""`drpo explain`: the gradient weight of objectives against π, as a file or in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drpo_cli.tools.explain import request

ADVANTAGES = (1.0, -1.0)


def explain(objectives: Sequence[str], mu: str | None, gradient: bool, out: Path | None) -> str:
    """Draws what each objective does to a token, for A = +1 and A = −1; returns what to print.

    `gradient` draws A r w = −∂loss/∂log π in place of w. Raises UserError for an objective, option,
    μ or file that cannot be.
    """
    variants = request.read_variants(objectives)
    mu_values = request.read_mu(mu)
    if out is not None:
        request.check_out(out)
    from drpo_cli.tools.explain import curves

    rows = [
        [curves.panel(variant, advantage, mu_values, gradient) for variant in variants]
        for advantage in ADVANTAGES
    ]
    if out is None:
        from drpo_cli.tools.explain import terminal

        return terminal.render(rows)
    from drpo_cli.tools.explain import figure

    figure.write(rows, out)
    return f"wrote {out}"
