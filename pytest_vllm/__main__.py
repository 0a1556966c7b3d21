"""`python -m pytest_vllm` is the console script `pytest-vllm`."""

from pytest_vllm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
