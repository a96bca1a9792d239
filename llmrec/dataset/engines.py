"""Where relational work runs: DuckDB in this process, or a local or configured Spark session."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import ibis
import pyarrow as pa

EngineName = Literal["duckdb", "pyspark"]


class Engine:
    """An Ibis backend: tables in, expressions out."""

    def __init__(self, name: EngineName, connection: Any) -> None:
        self.name = name
        self.connection = connection

    def table(self, name: str, table: pa.Table) -> ibis.Table:
        """``table`` under ``name`` on the engine, with the same column types."""
        if self.name == "duckdb":
            self.connection.con.register(name, table)  # no copy
            return self.connection.table(name)
        session = self.connection._session
        session.createDataFrame(table).createOrReplaceTempView(name)
        return self.connection.table(name)

    def materialize(self, name: str, expression: ibis.Table) -> ibis.Table:
        """The rows of ``expression``, computed once and kept on the engine."""
        if self.name == "duckdb":
            return self.table(name, expression.to_pyarrow())
        return expression.cache()


@contextmanager
def open_engine(name: EngineName) -> Iterator[Engine]:
    """Connect to an engine for the duration of a preparation.

    Raises:
        ImportError: if PySpark is asked for and not installed.
        RuntimeError: if Spark does not start, as without Java.
        ValueError: if the engine is unknown.
    """
    if name == "duckdb":
        yield Engine(name, ibis.duckdb.connect())  # in memory: gone with its last expression
    elif name == "pyspark":
        session = _spark_session()
        try:
            yield Engine(name, ibis.pyspark.connect(session))
        finally:
            session.stop()
    else:
        raise ValueError(f"engine is {name!r}; allowed are 'duckdb' and 'pyspark'.")


def _spark_session() -> Any:
    try:
        from pyspark.sql import SparkSession  # noqa: PLC0415
    except ImportError as error:
        raise ImportError('engine "pyspark" needs PySpark: pip install "llmrec[spark]".') from error
    # few partitions: the default of 200 costs minutes on data that one machine holds
    builder = (
        SparkSession.builder.appName("llmrec")
        .config("spark.sql.shuffle.partitions", os.cpu_count() or 1)
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.catalogImplementation", "in-memory")
    )
    if "SPARK_REMOTE" not in os.environ and "MASTER" not in os.environ:
        builder = builder.master("local[*]")
    try:
        session = builder.getOrCreate()
    except Exception as error:
        raise RuntimeError(
            f"Spark did not start ({type(error).__name__}). It needs Java 17 or 21 on PATH or in JAVA_HOME; "
            "or leave the engine at duckdb."
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    return session
