"""What Ctrl-C says."""

import pytest

from ensue import cli


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_ctrl_c_names_a_run_only_where_there_is_one(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told to repeat `inspect` or `generate` with --out RUN, a person would look for the flag."""

    def interrupted(argv: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, verb, interrupted)
    assert cli.main([verb]) == 130
    said = capsys.readouterr().err
    assert "stopped at once" in said
    assert ("--out RUN" in said) == (verb in ("demo", "train", "compare"))
