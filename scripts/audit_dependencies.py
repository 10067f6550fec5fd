"""Asks the package index whether a pinned requirement has a known vulnerability.

`make check` runs it over every file of requirements/. Exit status 1 names every vulnerable
package and the versions that mend it. Where no index answers it says so and exits with 0: a
machine without a network can still check everything else.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
FILES = ("run.txt", "dev.txt", "bench.txt")
ANSWER_SECONDS = 10
"""How long one answer of the index may take."""
AUDIT_SECONDS = 300
"""How long the whole audit may take; an index that is so slow does not answer."""

_NO_ANSWER = ("requests.exceptions", "ServiceError", "vulnerability feed")
"""What pip-audit's complaint holds when the index, or the way to it, is not there or answers nonsense."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit led to: the lines to print, and the exit status."""

    lines: tuple[str, ...]
    status: int


def judge(output: str, errors: str) -> Verdict:
    """Return the verdict on what pip-audit printed; `output` is its JSON, or nothing where it failed."""
    if not output.strip():
        last = errors.strip().splitlines()[-1] if errors.strip() else "pip-audit printed nothing"
        if any(mark in errors for mark in _NO_ANSWER):
            return Verdict(("known vulnerabilities: skipped: no index answers",), 0)
        return Verdict((f"known vulnerabilities: pip-audit failed: {last}",), 1)
    packages: list[Mapping[str, Any]] = json.loads(output)["dependencies"]
    vulnerable = [_sentence(package, each) for package in packages for each in package.get("vulns", ())]
    unknown = sum("skip_reason" in package for package in packages)
    asked = len(packages) - unknown
    if packages and not asked:
        return Verdict((f"known vulnerabilities: skipped: no index answers for any of {unknown} packages",), 0)
    lines = [*vulnerable, f"known vulnerabilities: {len(vulnerable)} in {asked} packages"]
    if unknown:
        lines.append(f"known vulnerabilities: {unknown} packages are not in the index and were not checked")
    return Verdict(tuple(lines), 1 if vulnerable else 0)


def _sentence(package: Mapping[str, Any], vulnerability: Mapping[str, Any]) -> str:
    names = " ".join([vulnerability["id"], *vulnerability.get("aliases", ())])
    mended = ", ".join(vulnerability.get("fix_versions", ())) or "no version yet"
    return f"{package['name']} {package['version']}: {names}; mended in {mended}"


def audit(files: Sequence[Path]) -> Verdict:
    """Run pip-audit over requirement files and return the verdict. Installs nothing, resolves nothing."""
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json", "--desc", "off"]
    command += ["--progress-spinner", "off", "--timeout", str(ANSWER_SECONDS)]
    for file in files:
        command += ["--requirement", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Verdict((f"known vulnerabilities: skipped: no index answers within {AUDIT_SECONDS} s",), 0)
    return judge(done.stdout, done.stderr)


def main() -> int:
    """Audit the project's requirement files; return the exit status."""
    verdict = audit([REQUIREMENTS / name for name in FILES])
    for line in verdict.lines:
        print(line)
    return verdict.status


if __name__ == "__main__":
    sys.exit(main())
