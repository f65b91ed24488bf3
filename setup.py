"""What is installed as the package; all else stands in pyproject.toml."""

from setuptools import find_packages, setup

# At the root of the repository for whoever uses it, within the package for whoever installs it.
BESIDE = {f"graphgpt.{name.replace('/', '.')}": name for name in ("configs", "datasets", "runners", "runners/training")}

setup(packages=[*find_packages(include=["graphgpt*"]), *BESIDE], package_dir=BESIDE)
