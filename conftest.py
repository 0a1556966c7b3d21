"""What every test of this repository gets: pytest's own tester for plugins."""

pytest_plugins = ["pytester"]
