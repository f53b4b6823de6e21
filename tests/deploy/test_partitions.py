"""A folder of parts in subfolders by column: what is read back is what was written, also after a run that died."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

import probinfer as pi
from probinfer import cli
from probinfer.deploy import part_file, sources
from probinfer.deploy import score as scoring
from probinfer.deploy.parts import Parts
from probinfer.deploy.score import score
from tests.deploy.conftest import LOADED
from tests.deploy.houses import rows

COUNT = 90


@pytest.fixture
def table(tmp_path):
    frame = rows(COUNT).assign(region=np.resize(["north", "so/uth=1", None], COUNT), year=np.arange(COUNT) // 50 + 2025)
    frame.to_parquet(tmp_path / "in.parquet")
    return frame


def assert_whole(folder, frame, quick):
    """Every row is there once, with its own prediction; the other library's reader agrees."""
    assert not list(folder.rglob("*.partial"))
    found = pyarrow.dataset.dataset(folder, partitioning="hive").to_table().to_pandas().sort_values("id")
    assert found["id"].tolist() == frame["id"].tolist()
    assert found["year"].tolist() == frame["year"].tolist()
    assert [None if pd.isna(value) else value for value in found["region"]] == [
        None if pd.isna(value) else value for value in frame["region"]
    ]
    expected = LOADED(quick).predict({"x": frame["x"].to_numpy(), "group": frame["group"].to_numpy()})
    np.testing.assert_allclose(found["mean"], expected.mean)


def test_rows_are_in_the_folders_of_their_values(table, quick, tmp_path):
    done = score(quick, tmp_path / "in.parquet", f"{tmp_path}/out/", keep=["id"], partition_by=["region", "year"])
    assert done.rows == COUNT
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.parquet"))
    assert len(names) == 6
    assert "region=north/year=2025/part-000000.parquet" in names
    assert "region=so%2Futh%3D1/year=2026/part-000000.parquet" in names
    assert "region=__HIVE_DEFAULT_PARTITION__/year=2025/part-000000.parquet" in names
    assert pyarrow.parquet.read_schema(tmp_path / "out" / names[0]).names[:2] == ["id", "mean"]
    assert_whole(tmp_path / "out", table, quick)


def test_what_is_written_is_read_as_input(table, quick, tmp_path):
    """A folder of rows by region and group, whose columns are inputs again."""
    for (region, group), part in table.fillna({"region": "none"}).groupby(["region", "group"]):
        place = tmp_path / "rows" / f"region={region.replace('/', '%2F').replace('=', '%3D')}" / f"group={group}"
        place.mkdir(parents=True)
        part.drop(columns=["region", "group"]).to_csv(place / "rows.csv", index=False)
    call = ["score", str(quick), f"{tmp_path}/rows", f"{tmp_path}/out.csv/", "--keep", "id,region"]
    assert cli.main([*call, "--partition-by", "group"]) == cli.DONE
    files = (tmp_path / "out.csv").rglob("*.csv")
    found = pd.concat([pd.read_csv(path).assign(group=path.parent.name) for path in files])
    found = found.sort_values("id")
    assert found["group"].tolist() == [f"group={group}" for group in table["group"]]
    expected = LOADED(quick).predict({"x": table["x"].to_numpy(), "group": table["group"].to_numpy()})
    np.testing.assert_allclose(found["mean"], expected.mean)


def test_whole_numbers_in_the_names_of_folders_are_numbers(quick, tmp_path):
    """As other libraries read them; where one value is none, all of them are text, and so is what begins with zeros."""
    for number, (year, shop, week) in enumerate([("2025", "007", "1"), ("-3", "8", "x"), (sources.NO_VALUE, "9", "2")]):
        place = tmp_path / "in" / f"year={year}" / f"shop={shop}" / f"week={week}"
        place.mkdir(parents=True)
        rows(4).assign(id=number).to_parquet(place / "a.parquet")
    score(quick, tmp_path / "in", tmp_path / "out.parquet", keep=["id", "year", "shop", "week"])
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert found.schema.types[1:4] == [pa.int64(), pa.string(), pa.string()]
    kept = sorted({(row["id"], row["year"], row["shop"], row["week"]) for row in found.to_pylist()})
    assert kept == [(0, 2025, "007", "1"), (1, -3, "8", "x"), (2, None, "9", "2")]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_dies_goes_on_without_losing_or_doubling_a_row(table, quick, tmp_path, monkeypatch, when):
    monkeypatch.setattr(scoring, "PART_ROWS", 20)
    commits, commit = [], Parts.commit

    def dies(self, position):
        commits.append(position)
        if when == "after":
            commit(self, position)
        if len(commits) == 3:
            raise KeyboardInterrupt
        if when == "before":
            commit(self, position)

    call = {"keep": ["id"], "partition_by": ["region", "year"], "chunk_rows": 10, "resume": True}
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            score(quick, tmp_path / "in.parquet", f"{tmp_path}/out/", **call)
    assert not (tmp_path / "out").exists()
    stray = tmp_path / "out.parts" / "region=north" / "part-000007.parquet"
    stray.write_bytes(b"of a run that died before it entered this")
    done = score(quick, tmp_path / "in.parquet", f"{tmp_path}/out/", **call)
    assert (done.rows, done.resumed) == (COUNT, 40 if when == "before" else 60)
    assert not (tmp_path / "out" / "region=north" / "part-000007.parquet").exists()
    assert_whole(tmp_path / "out", table, quick)


def test_a_failed_run_leaves_nothing(table, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(part_file, "_MOST", 3)
    with pytest.raises(pi.DataError, match="id has more than 3 values"):
        score(quick, tmp_path / "in.parquet", f"{tmp_path}/out/", partition_by=["id"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet"]
    for output in (tmp_path / "out.parquet", "sqlite:///out.db", "-"):
        with pytest.raises(pi.DataError, match="Only a folder has partitions"):
            score(quick, tmp_path / "in.parquet", output, partition_by=["region"])
    with pytest.raises(pi.DataError, match="no column 'place'"):
        score(quick, tmp_path / "in.parquet", f"{tmp_path}/out/", partition_by=["place"])
