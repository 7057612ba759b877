"""An sqlite store with MLflow's tables, which take seconds to make, copied for each test."""

import shutil

import pytest

from pipeline.tracking.connection import connect


@pytest.fixture(scope="session")
def made_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def store_uri(made_store, tmp_path):
    """URI of a store of the test's own."""
    shutil.copyfile(made_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"
