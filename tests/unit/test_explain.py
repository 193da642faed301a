"""`drpo explain` draws the objective's own weight, and says every mistake plainly."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.tools.explain import curves, figure, terminal
from drpo_cli.tools.explain.command import explain
from drpo_cli.tools.explain.curves import Panel
from drpo_cli.tools.explain.request import MU, read_mu, read_variant, read_variants
from support.command import drpo

DRPO = "drpo:delta=0.2"
SIGNATURES = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def at(variant: str, mu: float, pi: float, adv: float, gradient: bool = False) -> float:
    drawn = curves.values(read_variant(variant), np.array([pi], float), mu, adv, gradient)
    return float(drawn[0])


def rows(*variants: str, mu: tuple[float, ...] = MU, gradient: bool = False) -> list[list[Panel]]:
    return [
        [curves.make_panel(variant, adv, mu, gradient) for variant in read_variants(variants)]
        for adv in (1.0, -1.0)
    ]


def lines_at(text: str, name: str) -> list[str]:
    """The terminal's lines from an objective's title on."""
    lines = text.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith(name)) :]


@pytest.mark.parametrize(
    ("variant", "mu", "pi", "adv", "weight"),
    [
        (DRPO, 0.3, 0.3, 1, 1),
        (DRPO, 0.3, 0.5, 1, 0),  # the edge
        (DRPO, 0.3, 0.8, 1, -1.5),
        (DRPO, 0.3, 0.8, -1, 3.5),
        ("drpo:delta=0.05", 0.1, 0.6, 1, -9),
        ("dppo:delta_high=0.1", 0.3, 0.39, 1, 1),
        ("dppo:delta_high=0.1", 0.3, 0.41, 1, 0),
        ("ppo_clip", 0.01, 0.011, 1, 1),
        ("ppo_clip", 0.01, 0.013, 1, 0),
        ("spo", 0.01, 1, 1, -494),
        ("spo", 0.01, 1, -1, 496),
        ("none", 0.01, 1, 1, 1),
    ],
)
def test_drawn_is_the_closed_form(
    variant: str, mu: float, pi: float, adv: float, weight: float
) -> None:
    assert at(variant, mu, pi, adv) == pytest.approx(weight, abs=1e-10)
    gradient = at(variant, mu, pi, adv, gradient=True)
    assert gradient == pytest.approx(adv * pi / mu * weight, abs=1e-8)


def test_a_curve_covers_all_of_pi_and_holds_its_mu() -> None:
    for mu in (1e-9, 0.01, 0.3, 1.0):
        (curve,) = curves.make_panel(read_variant(DRPO), 1, (mu,), gradient=False).curves
        assert 0 < curve.pi_T[0] <= 0.002 and curve.pi_T[-1] == 1 and mu in curve.pi_T
        assert (np.diff(curve.pi_T) > 0).all() and np.isfinite(curve.value_T).all()
        closed_T = 1 - (curve.pi_T - mu) / 0.2
        beyond_T = np.abs(np.log(curve.pi_T / mu)) > 20  # the ratio is clamped there
        assert curve.value_T == pytest.approx(np.where(beyond_T, 0, closed_T), abs=1e-9)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(
    ("variant", "adv", "edges"),
    [
        (DRPO, 1, [0.5]),
        (DRPO, -1, [0.1]),
        ("dppo", 1, [0.45]),
        ("dppo", -1, [0.15]),
        ("ppo_clip:dual_clip=3", -1, [0.24, 0.9]),
        ("none", 1, []),
        ("cispo", 1, []),
        ("sapo:tau_pos=50", 1, []),  # fades to exactly 0, without an edge
    ],
)
def test_edges_are_where_the_weight_reaches_zero(
    variant: str, adv: float, edges: list[float], gradient: bool
) -> None:
    panel = curves.make_panel(read_variant(variant), adv, (0.3,), gradient)
    assert panel.edges(panel.curves[0]) == pytest.approx(edges, abs=0.004)


def test_the_axis_shows_everything_up_to_a_limit() -> None:
    def limits(*variants: str) -> tuple[float, float]:
        return curves.limits(panel for row in rows(*variants) for panel in row)

    assert limits("none") == (0, 1)
    assert limits(DRPO) == pytest.approx((-3.95, 5.95), abs=0.03)
    assert limits("none", "spo") == (-6, 6)


@pytest.mark.parametrize("gradient", [False, True])
def test_every_built_in_objective_is_explained(gradient: bool) -> None:
    names = plugins.available("objectives")
    text = explain(names, "0.05,0.5", gradient, None)
    for name in names:
        assert re.search(rf"^{name}\b", text, re.MULTILINE)
    axes = figure.draw(rows(*names, mu=(0.05, 0.5), gradient=gradient)).axes
    assert sum(a.axison for a in axes) == 2 * len(names)


def test_a_sequence_level_objective_says_what_a_point_is() -> None:
    assert "gspo, responses of one token" in explain(["gspo"], None, False, None)
    assert "responses" not in explain(["ppo_clip"], None, False, None)


def test_the_terminal_shows_panels_and_values_in_80_plain_columns() -> None:
    text = terminal.render(rows(DRPO, "spo"))
    assert max(map(len, text.splitlines())) <= 80 and "\x1b" not in text
    assert "1 μ = 0.01   2 μ = 0.1   3 μ = 0.3   4 μ = 0.6   5 μ = 0.9" in text
    drawn = lines_at(text, "drpo  delta=0.2")
    assert drawn[1].split("  ")[-1] == "w, A = −1" and "w, A = +1" in drawn[1]
    table = next(line for line in drawn if line.startswith("μ=0.6")).split()
    assert table == ["μ=0.6", "2.5", "1.5", "0.5", "-0.5", "μ=0.6", "-0.5", "0.5", "1.5", "2.5"]
    explodes = next(line for line in lines_at(text, "spo") if line.startswith("μ=0.01")).split()
    assert explodes[:5] == ["μ=0.01", "–", "–", "-49", "-149"]


def test_the_terminal_draws_the_curve_where_its_values_are() -> None:
    drawn = lines_at(terminal.render(rows(DRPO, mu=(0.3,))), "drpo")
    plane = {line[: terminal.MARGIN - 1].strip(): line[terminal.MARGIN :] for line in drawn[2:]}
    column = int(0.3 * terminal.WIDTH)
    assert plane["1"][column] == "1" and plane["0"][int(0.5 * terminal.WIDTH)] == "1"
    axis = next(line for line in drawn if "└" in line)
    assert axis[terminal.MARGIN + column] == "1"


def test_curves_that_coincide_take_turns_and_one_that_leaves_gets_an_arrow() -> None:
    ones = next(line for line in lines_at(terminal.render(rows("none")), "none") if "1┤" in line)
    assert all(digit in ones.partition("┤")[2] for digit in "12345")
    assert "↓" in terminal.render(rows("spo")) and "↓" not in terminal.render(rows(DRPO))


def test_the_figure_names_everything() -> None:
    drawn = figure.draw(rows(DRPO, "spo"))
    titles = [axes.get_title(loc="left") for axes in drawn.axes]
    assert titles == ["drpo\ndelta=0.2", "spo\nepsilon=0.2", "", ""]
    assert [axes.get_ylabel() for axes in drawn.axes] == ["w, A = +1", "", "w, A = −1", ""]
    notes = [note.get_text() for axes in drawn.axes for note in axes.texts]
    assert notes == ["↓ to −494 at μ = 0.01", "↑ to 496 at μ = 0.01"]
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert legend[:5] == [f"μ = {mu:g}" for mu in MU] and "π = μ" in legend


@pytest.mark.parametrize(("gradient", "shaded"), [(False, [-1, -1]), (True, [-1, 1])])
def test_the_shaded_half_is_where_the_weight_is_negative(gradient: bool, shaded: list[int]) -> None:
    drawn = figure.draw(rows(DRPO, gradient=gradient))
    boxes = [axes.patches[0].get_extents() for axes in drawn.axes]
    zero = [axes.transData.transform((0, 0))[1] for axes in drawn.axes]
    middles = [(box.y0 + box.y1) / 2 for box in boxes]
    assert [np.sign(y - y0) for y, y0 in zip(middles, zero, strict=True)] == shaded


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_legend_fits(count: int) -> None:
    mu = tuple(i / 1000 for i in range(101, 110))
    with matplotlib.rc_context(figure.STYLE):
        drawn = figure.draw(rows(*["none"] * count, mu=mu))
        drawn.draw_without_rendering()
    legend = drawn.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= drawn.bbox.width
    assert 0 <= legend.y0 < legend.y1 <= min(axes.bbox.y0 for axes in drawn.axes)


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_a_figure_is_written_and_always_the_same(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix.upper()}"
    assert explain([DRPO, "dppo"], None, False, first) == f"wrote {first}"
    explain([DRPO, "dppo"], None, False, second)
    assert first.read_bytes().startswith(SIGNATURES[suffix])
    assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_a_figure_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"x\.jpg: unknown figure format; use a name that ends in \.png"
    ):
        explain([DRPO], None, False, tmp_path / "x.jpg")
    with pytest.raises(UserError, match=r"cannot be written: .*; choose another"):
        explain([DRPO], None, False, tmp_path / "gone" / "x.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        explain([DRPO], None, False, tmp_path / "taken.png")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]


def test_mistakes_in_variants_are_said_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        read_variants(["drpo:delta=0", "dppo:delat_low=1", "spo", "drop", "dppo:divergence=js"])
    said = str(caught.value).splitlines()
    assert said[0].startswith("drpo:delta=0: delta: is 0; must be above 0")
    assert said[1].startswith("dppo:delat_low=1: delat_low: is not a known key; did you mean")
    assert "no objective 'drop'; did you mean 'drpo'? there are: " in said[2]
    assert said[3].startswith("dppo:divergence=js: divergence: is 'js'; must be 'tv' or 'kl'")
    assert len(said) == 4


def test_mu_is_read_sorted_and_checked() -> None:
    assert read_mu(None) == MU
    assert read_mu("0.5, 0.05,0.5,1") == (0.05, 0.5, 1.0)
    for wrong in ("0", "1.1", "-0.1", "x", "", "0.1,,0.2", "nan", "inf"):
        with pytest.raises(UserError, match="is not a probability"):
            read_mu(wrong)
    with pytest.raises(UserError, match="has 10 values; give at most 9"):
        read_mu(",".join(f"0.{i}5" for i in range(10)))


def test_a_file_of_the_user_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from drpo_cli.types import TokenLoss\n"
        "def half(config, tokens):\n"
        "    ratio_T = (tokens.logp_T - tokens.old_logp_T).exp()\n"
        "    weight_T = ratio_T.detach() * 0 + 0.5\n"
        "    return TokenLoss(-0.5 * tokens.adv_T * ratio_T, {'weight': weight_T})\n"
        "def bare(config, tokens):\n"
        "    return TokenLoss(half(config, tokens).per_token_T, {})\n"
    )
    monkeypatch.chdir(tmp_path)
    assert at("./mine.py:half", 0.1, 0.2, 1) == 0.5
    assert math.isclose(at("./mine.py:bare", 0.1, 0.2, -1, gradient=True), -1)
    with pytest.raises(UserError, match=r"\./mine\.py:bare: its metrics have no 'weight'"):
        at("./mine.py:bare", 0.1, 0.2, 1)
    assert "\nhalf\n" in explain(["./mine.py:half"], None, False, None)


def test_a_dollar_in_a_name_is_a_dollar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "$x^$\x1b[2J.py").write_text("from drpo_cli.objectives.none import Config, loss\n")
    monkeypatch.chdir(tmp_path)
    explain(["./$x^$\x1b[2J.py"], None, False, tmp_path / "names.png")
    explain(["./$x^$\x1b[2J.py"], None, False, tmp_path / "names.svg")
    ElementTree.fromstring((tmp_path / "names.svg").read_text(encoding="utf-8"))


def test_the_command_draws_writes_and_refuses(tmp_path: Path) -> None:
    done = drpo("explain", DRPO, "--mu", "0.05,0.5", NO_COLOR="1")
    assert done.returncode == 0 and "1 μ = 0.05   2 μ = 0.5" in done.stdout
    done = drpo("explain", DRPO, "--gradient", "--out", tmp_path / "weights.svg")
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'weights.svg'}\n")
    for arguments, said in (
        (["drpo:delta=0"], "error: drpo:delta=0: delta: is 0; must be above 0"),
        ([DRPO, "--mu", "2"], "error: --mu: '2' is not a probability"),
        ([DRPO, "--out", "x.gif"], "error: --out x.gif: unknown figure format"),
    ):
        done = drpo("explain", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(said) and "Traceback" not in done.stderr
    assert drpo("explain").returncode == 2
    assert "\n    drpo explain " in drpo("explain", "--help").stdout
