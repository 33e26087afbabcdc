"""The generated etcd messages are what the proto file beside them says."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
PROTO = "meshfabric/store/etcd.proto"


@pytest.mark.parametrize("name", ["etcd_pb2.py", "etcd_pb2.pyi"])
def test_generated_file_is_up_to_date(name: str, tmp_path: Path) -> None:
    outputs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *outputs, PROTO], cwd=REPOSITORY, check=True
    )
    kept = REPOSITORY / "meshfabric/store" / name
    assert (tmp_path / "meshfabric/store" / name).read_text() == kept.read_text()
