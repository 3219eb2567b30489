"""What is said of the machine is public."""

from __future__ import annotations

import getpass
import json
import platform

import torch

from intriguing.run import environment
from intriguing.run.environment import package_version


def test_environment_names_versions_and_no_host() -> None:
    got = environment("cpu")
    assert got["python"] == platform.python_version()
    assert got["torch"] == torch.__version__
    assert got["device"] == "cpu"
    assert isinstance(got["cpus"], int)
    assert got["cpus"] >= 1
    assert all(got.values())
    text = json.dumps(got)
    assert platform.node() not in text
    assert getpass.getuser() not in text.split()


def test_a_package_that_is_not_installed_has_an_unknown_version() -> None:
    assert package_version("no-such-package") == "unknown"
