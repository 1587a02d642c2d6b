"""What every test, doctest and property in this repository may count on."""

import os

import pytest

# Notebook kernels are children of this process: with one thread each, two workers do not fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    import torch
    from hypothesis import settings

    torch.set_num_threads(1)
    torch.set_printoptions(precision=4, sci_mode=False)
    # Repeatable, and no verdict that depends on how busy the machine is.
    settings.register_profile("book", deadline=None, derandomize=True)
    settings.load_profile("book")


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    import torch

    doctest_namespace["torch"] = torch
