"""One measurement, in a process of its own: `python -m tests.bench.child MODULE FUNCTION '{"n": 100}'`.

The last line that it prints is a JSON object: the figures. It works in the folder that it was started in.
"""

import asyncio
import inspect
import json
import logging
import os
import sys
from importlib import import_module


def main() -> None:
    module, function, given = sys.argv[1:]
    logging.disable(logging.CRITICAL)  # what a peer has to say about being late costs it time
    found = getattr(import_module(f"tests.bench.{module}"), function)(**json.loads(given))
    if inspect.iscoroutine(found):
        found = asyncio.run(found)
    print(json.dumps(found), flush=True)
    os._exit(0)  # some peers leave threads behind that never end


if __name__ == "__main__":
    main()
