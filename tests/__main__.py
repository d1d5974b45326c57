"""All tests, `python -m tests`: what mostly waits runs together, then what measures has the machine for itself."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

TOGETHER = ("unit", "kernel", "matrix", "crash")
ALONE = "tests/browser/test_many.py"
# A worker that ends is not replaced: by groups, its last test would be run again, and hang again, for ever.
WORKERS = ("--max-worker-restart", "0", "-n")
PARTS = (
    [*WORKERS, "3", "--dist", "loadgroup", *(f"tests/{folder}" for folder in TOGETHER)],
    [*WORKERS, "2", "--dist", "loadfile", "tests/browser", f"--ignore={ALONE}"],
    ["tests", *(f"--ignore=tests/{folder}" for folder in (*TOGETHER, "browser")), ALONE],
)
OUTCOMES = {"failures": "failed", "passed": "passed", "skipped": "skipped", "errors": "errors"}


def main() -> int:
    began, counts, codes = time.monotonic(), Counter[str](), []
    with TemporaryDirectory() as folder:
        for number, part in enumerate(PARTS):
            report = Path(folder) / f"{number}.xml"
            command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *part]
            codes.append(subprocess.run(command, check=False).returncode)
            counts += outcomes(report)
    said = ", ".join(f"{counts[kind]} {word}" for kind, word in OUTCOMES.items() if counts[kind])
    print(f"all parts together: {said or 'no tests ran'} in {time.monotonic() - began:.0f} s")
    return max(codes, key=abs)


def outcomes(report: Path) -> Counter[str]:
    """Count how the tests of a run ended, by its report; nothing when the run wrote none."""
    if not report.exists():
        return Counter()
    suite = ET.parse(report).getroot()[0]
    counts = Counter({kind: int(suite.get(kind, 0)) for kind in ("failures", "errors", "skipped")})
    counts["passed"] = int(suite.get("tests", 0)) - counts.total()
    return counts


if __name__ == "__main__":
    sys.exit(main())
