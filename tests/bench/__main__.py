"""Ours, the floor and the peers in one run: `python -m tests.bench`, with their environments `make bench`.

A full run writes its table into README.md. Every measurement is told as it ends, and kept in a log; Ctrl-C ends it
with what there is.
Nothing passes or fails by being quick; a measurement that did not do all its work is a failure in the table.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import report
from tests.bench.plan import CONTESTANTS
from tests.bench.rounds import PEERS, ROOT, Rounds, version_of
from tests.bench.rows import ROWS


def main() -> None:
    asked = arguments()
    rows = [row for row in ROWS if not asked.only or row.key in asked.only]
    contestants = asked.contestants or list(CONTESTANTS)
    asked.log.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends it takes the measurement along
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, asked.log.open("w") as log:

        def tell(line: str) -> None:
            for stream in (sys.stderr, log):
                print(line, file=stream, flush=True)

        versions = {contestant: version_of(contestant, Path(name)) for contestant in contestants}
        rounds = Rounds(Path(name), asked.quick, tell)
        try:
            rounds.run(rows, contestants, asked.rounds)
        except KeyboardInterrupt:
            tell("stopped: what was not reached stands in the table as not measured")
    text = report.page(rounds.found, rows, contestants, versions, asked.rounds)
    print(text)
    print(f"\n{(time.monotonic() - began) / 60:.1f} min", file=sys.stderr)
    complete = not (asked.quick or asked.only or asked.contestants)
    into = asked.into or (ROOT / "README.md" if complete else None)
    if into:
        report.write_between_marks(into, text)


def arguments() -> argparse.Namespace:
    keys = [row.key for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=keys, metavar="ROW", help=", ".join(keys))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, metavar="WHO", help="of the whole list")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often everybody has a turn (3)")
    parser.add_argument("--quick", action="store_true", help="try it at a hundredth of the size; no figures to believe")
    parser.add_argument("--into", type=Path, metavar="FILE", help="write between the marks of this page in any case")
    parser.add_argument("--log", type=Path, metavar="FILE", default=PEERS / "rounds.log", help="(%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
