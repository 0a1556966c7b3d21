"""hf-mem as it is, but with another address of the Hub, which it has no option for.

`python redirected.py http://127.0.0.1:PORT ARGUMENTS-OF-HF-MEM`
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def main() -> None:
    """Send what goes to huggingface.co to the address, then become hf-mem's own command."""
    httpx2: Any = importlib.import_module("httpx2")  # only hf-mem's environment has these two
    command = importlib.import_module("hf_mem.cli")
    address = httpx2.URL(sys.argv.pop(1))
    client = httpx2.AsyncClient

    async def redirect(request: Any) -> None:
        request.url = request.url.copy_with(
            scheme=address.scheme, host=address.host, port=address.port
        )

    def redirected(**options: Any) -> Any:
        return client(**options, event_hooks={"request": [redirect]})

    httpx2.AsyncClient = redirected
    command.main()


if __name__ == "__main__":
    main()
