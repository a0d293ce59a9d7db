"""The example of the documentation runs as it stands."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "docs" / "example.py"


def test_the_example_runs(tiny_bundle, toy_encoder, monkeypatch, capsys):
    """The toy robot stays about where it is; its path ends 3.7 m away."""
    monkeypatch.setattr("motionlex.controllers.bundle.TextEncoder", toy_encoder)
    error = runpy.run_path(str(EXAMPLE))["walk_a_bend"](str(tiny_bundle))
    assert 0.1 < error < 4.0
    said = capsys.readouterr().out
    assert "'wave to the audience' is nearest to" in said and "after 11.0 s the robot is at" in said
