from __future__ import annotations

import json
import os

import pytest

from tests.commands import zerokit
from zerokit.cli import dashboard
from zerokit.config.errors import ConfigError
from zerokit.tracker.dashboard import SECTIONS, Panel, build_workspace

PANELS = [panel for panels in SECTIONS.values() for panel in panels]


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_dry_run_prints_the_specification(tmp_path):
    result = zerokit("dashboard", "me/mine", "--name", "stages", "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    spec = json.loads(result.stdout)
    assert (spec["entity"], spec["project"], spec["name"]) == ("me", "mine", "stages")
    titles = [panel["title"] for section in spec["sections"] for panel in section["panels"]]
    assert titles == [panel.title for panel in PANELS]
    assert {"Loss by stage", "Throughput against memory", "Predicted against measured"} <= set(titles)


def test_the_workspace_holds_every_panel():
    workspace = build_workspace("mine", "me", "stages")
    text = workspace._to_model().model_dump_json()
    model = json.loads(text)
    assert (model["entity"], model["project"], model["display_name"]) == ("me", "mine", "stages")
    sections = model["spec"]["section"]["panel_bank_config"]["sections"]
    assert {name: len(panels) for name, panels in SECTIONS.items()} == {
        section["name"]: len(section["panels"]) for section in sections if section["name"] in SECTIONS
    }
    for panel in PANELS:
        assert json.dumps(panel.title) in text
        assert all(json.dumps(name) in text or f"summary:{name}" in text for name in panel.y), panel
    grouped = [panel for panel in PANELS if panel.group_by == "zero.stage"]
    assert text.count('"group_by":"zero.value.stage"') == len(grouped) > 0


def test_panels_name_metrics_that_the_page_of_metrics_lists():
    from tests.commands import ROOT

    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    names = {name for panel in PANELS for name in (panel.x, *panel.y) if name}
    assert sorted(name for name in names - {"memory/predicted_gib"} if f"`{name}`" not in page) == []
    assert {panel.kind for panel in PANELS} == {"line", "bar", "scatter"}
    assert all(isinstance(panel, Panel) for panel in PANELS)


def test_without_a_key_or_the_package_the_error_says_what_to_do(no_key, monkeypatch):
    with pytest.raises(ConfigError, match="wandb login"):
        dashboard.main(["mine"])
    monkeypatch.setattr(dashboard, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'zerokit\[dashboard\]'"):
        dashboard.main(["mine"])


def test_a_server_that_refuses_is_one_line(no_key, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)

    def refuse(*_):
        raise ValueError("no such entity\nsecond line")

    monkeypatch.setattr("zerokit.tracker.dashboard.build_workspace", refuse)
    with pytest.raises(ConfigError) as caught:
        dashboard.main(["me/mine"])
    assert str(caught.value) == "dashboard: W&B did not save the workspace (ValueError: no such entity)."


@pytest.mark.parametrize("words", [[], ["a", "b"], ["mine", "--nam"], ["a/b/c"], ["me/"]])
def test_a_wrong_command_is_one_line_and_status_2(words, tmp_path):
    result = zerokit("dashboard", *words, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "Usage: zerokit dashboard" in result.stderr
