"""`gemma4gguf inspect` and `doctor`: what is there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .common import common, found, print_json
from .show import Table, number, size, warn


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@common
@found("file")
def inspect(file: Path, as_json: bool) -> None:
    """Show what a bundle holds: sections, types, sizes, defaults, where it comes from."""
    from ..bundle.reading import Bundle
    from ..tools.inspect import summary

    bundle = Bundle.open(file)
    report = summary(bundle)
    if as_json:
        print_json(report)
        return
    click.echo(f"{report['file']}  {size(report['size'])}")
    table = Table("section", "at", "size", "parameters", "bits", "types")
    for section in report["sections"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in section["types"].items())
        table.row(
            section["what"],
            number(section["offset"]),
            size(section["size"]),
            number(section["parameters"]),
            f"{section['bits_per_weight']:.2f}",
            f"{section['file_type'] or 'no file type'}: {kinds}",
        )
    table.print()
    facts = Table("", "")
    for group in ("model", "sampling", "provenance"):
        for name, value in report[group].items():
            if value is not None:
                facts.row(name.replace("_", " "), _told(value))
    facts.row("vocabulary", number(report["vocabulary"]))
    facts.row("end tokens", _told(report["end_tokens"]))
    facts.row("chat template", f"SHA-256 {report['chat_template_sha256'] or 'none'}")
    facts.row("text header", f"the first {number(report['sections'][0]['header'])} bytes")
    facts.print(header=False)
    for name in report["missing"]:
        warn(bundle.absence(name))


def _told(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none named"
    return number(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@common
@found("file")
def doctor(file: Path | None, as_json: bool) -> int:
    """Show what this machine offers, what would stop gemma4gguf on it, and which type of the 12B fits its memory.

    With FILE, how that model fits instead, and whether it is read fast enough to listen here. `plan` says more.
    """
    from ..tools.doctor import Finding, examine, fitting

    findings = [*examine(), *fitting(file)]
    if file is not None:
        from ..model import Gemma4
        from ..tools.listening import reading_speed, verdict

        with Gemma4(file, draft="off") as model:
            findings.append(Finding("listening", verdict(reading_speed(model))))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        table = Table("", "")
        for finding in findings:
            table.row(finding.name, finding.value)
        table.print(header=False)
        for finding in findings:
            if finding.problem:
                warn(f"{finding.name} {finding.value}: {finding.problem}")
    return 1 if any(finding.problem for finding in findings) else 0


COMMANDS = (inspect, doctor)
