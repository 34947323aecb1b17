"""Every folder with an ``__init__.py`` is packaged; the example travels inside the wheel (see pyproject.toml)."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["formats*", "triggers*", "wiper_cli*"]), "wiper_cli.example"])
