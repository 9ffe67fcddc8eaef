"""`fusewire doctor`: whether everything is there and works."""

import click
from rich.text import Text

from .. import __version__
from .base import FAILED, Command, Session
from .health import ABSENT, BROKEN, MISSING, OK, Finding, examine
from .options import json_option

_MARKS = {
    OK: Text("ok", "green"),
    ABSENT: Text("absent", "dim"),
    MISSING: Text("missing", "yellow"),
    BROKEN: Text("broken", "bold red"),
}
_STEPS = 26  # about as many things as there are to look at


@click.command(cls=Command, examples=("fusewire doctor", "fusewire doctor --json", "fusewire doctor --peaks"))
@click.option("--peaks", is_flag=True, help="Measure anew what the processor can do at most (a few seconds).")
@json_option
@click.pass_obj
def doctor_command(session: Session, peaks: bool, as_json: bool) -> int:
    """Look whether everything that fusewire needs is there and works.

    It lists versions, the processor, the C compiler (with a test kernel), the processor's measured peaks (arithmetic,
    copying and reading memory), the kernel cache, the libraries for -libs=, and GPUs. For each problem it prints the
    command that mends it. The exit status is 0 if the cpu target works.
    """
    findings: list[Finding] = []
    with session.progress(_STEPS) as step:
        step("look")
        for finding in examine(peaks):
            findings.append(finding)
            step(f"{finding.topic}: {finding.name}")
    works = not any(f.state == BROKEN for f in findings)
    if as_json:
        session.json(_report(findings, works))
    else:
        _show(session, findings, works)
    return 0 if works else FAILED


def _report(findings: list[Finding], works: bool) -> dict[str, object]:
    """By topic and name; topics of one thing are not nested further."""
    topics: dict[str, dict[str, object]] = {}
    for f in findings:
        topics.setdefault(f.topic, {})[f.name] = {"state": f.state, "detail": f.detail, "fix": f.fix, **f.facts}
    problems = [{"what": f"{f.name}: {f.detail}", "fix": f.fix} for f in findings if f.state in (MISSING, BROKEN)]
    return {"fusewire": __version__, "works": works, **topics, "problems": problems}


def _show(session: Session, findings: list[Finding], works: bool) -> None:
    session.table(
        ["", "what", "found"],
        [[_MARKS[f.state], f.name if f.topic != "library" else f"-libs={f.name}", f.detail] for f in findings],
    )
    problems = [f for f in findings if f.state in (MISSING, BROKEN)]
    if problems:
        session.line()
        session.line("To mend what is missing:", "bold")
        for fix in dict.fromkeys(f.fix or f"see {f.name} above" for f in problems):
            session.line(f"  {fix}")
    session.line()
    session.line(
        "The cpu target works." if works else "The cpu target does not work.", "green" if works else "bold red"
    )
