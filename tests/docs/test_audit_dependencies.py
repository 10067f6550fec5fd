"""scripts/audit_dependencies.py: what it makes of pip-audit's answers."""

import json
from typing import Any

import pytest

from scripts.audit_dependencies import judge

SOUND = {"name": "fastapi", "version": "0.165.0", "vulns": []}
UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found on PyPI and could not be audited: ours (1.0)"}
VULNERABLE = {
    "name": "orjson",
    "version": "3.0.0",
    "vulns": [{"id": "PYSEC-2099-1", "aliases": ["CVE-2099-1"], "fix_versions": ["3.0.1"], "description": "x"}],
}


def answer(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_known_vulnerabilities_fail_and_are_named() -> None:
    """It fails on known vulnerabilities, with package, version, names and what mends it."""
    verdict = judge(answer(SOUND, VULNERABLE), "Found 1 known vulnerability")
    assert verdict.status == 1
    assert verdict.lines[0] == "orjson 3.0.0: PYSEC-2099-1 CVE-2099-1; mended in 3.0.1"


def test_packages_that_the_index_lacks_are_counted_in_one_line() -> None:
    """Packages it cannot find are counted in one line, and fail nothing."""
    verdict = judge(answer(SOUND, UNKNOWN, UNKNOWN), "")
    assert verdict.status == 0
    assert [line for line in verdict.lines if "2 packages are not in the index" in line] == [verdict.lines[-1]]


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        ("", "Traceback …\nrequests.exceptions.ProxyError: HTTPSConnectionPool(host='pypi.org')"),
        ("", "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed\nERROR: Tip: your network"),
        ("", "Traceback …\npip_audit._service.interface.ServiceError"),
        (answer(UNKNOWN, UNKNOWN), ""),
    ],
)
def test_without_an_index_it_is_skipped_and_says_so(output: str, errors: str) -> None:
    """It says "skipped: no index answers" and exits 0 when the service cannot be reached."""
    verdict = judge(output, errors)
    assert verdict.status == 0
    assert len(verdict.lines) == 1
    assert "skipped: no index answers" in verdict.lines[0]


@pytest.mark.parametrize("errors", ["", "ERROR: requirements/run.txt: No such file", "ModuleNotFoundError: pip_audit"])
def test_another_failure_is_a_failure(errors: str) -> None:
    """A broken audit is not taken for a clean one."""
    assert judge("", errors).status == 1
