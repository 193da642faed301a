"""`drpo explain`: checks what to draw before it imports torch, and draws it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drpo_cli.tools.explain.request import check_out, read_mu, read_variants

ADVANTAGES = (1.0, -1.0)


def explain(objectives: Sequence[str], mu: str | None, gradient: bool, out: Path | None) -> str:
    """Draws each objective for A = +1 and A = −1; returns the text to print.

    `gradient` draws A r w = −∂loss/∂log π in place of w. Raises UserError for a wrong objective,
    option, μ or file name.
    """
    variants = read_variants(objectives)
    mu_values = read_mu(mu)
    if out is not None:
        check_out(out)
    from drpo_cli.tools.explain import curves  # torch: only after all is checked

    rows = [
        [curves.make_panel(variant, advantage, mu_values, gradient) for variant in variants]
        for advantage in ADVANTAGES
    ]
    if out is None:
        from drpo_cli.tools.explain import terminal

        return terminal.render(rows)
    from drpo_cli.tools.explain import figure

    figure.write(rows, out)
    return f"wrote {out}"
