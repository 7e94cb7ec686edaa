"""``rgbt doctor``: what this machine can do, and what to type where something is wrong."""

import argparse
import dataclasses
import json

EXAMPLE = """examples:
  rgbt doctor
  rgbt doctor --json

Exit code 0: bundles run here; 1: they do not. A note concerns something optional: training, a GPU, a window."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Examine and print."""
    try:
        from pipelines.doctor import examine, works
    except ImportError as error:
        print(f"problem  {error}  → pip install rgbt-fusion")
        return 1
    findings = examine()
    healthy = works(findings)
    if args.json:
        answer = {"edge_runtime": healthy, "findings": [dataclasses.asdict(finding) for finding in findings]}
        print(json.dumps(answer, indent=2))
        return 0 if healthy else 1
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        advice = f"  → {finding.advice}" if finding.advice else ""
        print(f"{finding.level:<8} {finding.name:<{width}}  {finding.found}{advice}")
    print("bundles run here" if healthy else "bundles do not run here: see the problems above")
    return 0 if healthy else 1
