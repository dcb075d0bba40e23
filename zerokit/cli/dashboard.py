"""`zerokit dashboard [ENTITY/]PROJECT [--name NAME] [--dry-run]`: save a W&B workspace for the runs of a project.

NAME is that of the workspace, by default zerokit. --dry-run prints what it would hold as JSON and sends nothing.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec

from zerokit.cli.page import usage
from zerokit.config.errors import ConfigError

USAGE = usage(__doc__)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ConfigError(f"{message[0].upper()}{message[1:]}. Usage: {USAGE}.")


def main(words: list[str]) -> int:
    """Create the workspace and print its address; with --dry-run print its specification as JSON.

    Raises:
        ConfigError: if wandb-workspaces or a key is missing, or the server refuses.
    """
    from zerokit.tracker.dashboard import specification

    parser = _Parser(allow_abbrev=False, add_help=False)
    parser.add_argument("project")
    parser.add_argument("--name", default="zerokit")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args(words)
    entity, _, project = args.project.rpartition("/")
    if not project or "/" in entity:
        raise ConfigError(f"Cannot read the project '{args.project}'. Usage: {USAGE}.")
    if args.dry_run:
        print(json.dumps(specification(project, entity or None, args.name), indent=2))
        return 0
    print(_save(project, entity, args.name))
    return 0


def _save(project: str, entity: str, name: str) -> str:
    if find_spec("wandb_workspaces") is None:
        raise ConfigError("dashboard needs a package: pip install 'zerokit[dashboard]'. --dry-run does without.")
    import wandb

    from zerokit.tracker._wandb import has_key
    from zerokit.tracker.dashboard import build_workspace

    if not has_key(wandb):
        raise ConfigError("dashboard: W&B has no key here: run `wandb login` or set WANDB_API_KEY, or use --dry-run.")
    try:
        entity = entity or wandb.Api(timeout=20).default_entity
        return build_workspace(project, entity, name).save().url
    except Exception as error:  # whatever the client raises for a server that refuses or is not there
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise ConfigError(f"dashboard: W&B did not save the workspace ({type(error).__name__}: {line}).") from error
