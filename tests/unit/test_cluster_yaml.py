"""cluster.yaml against Ray's own validation and AWS's own request schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "cpu", "h100"}
    for group in ("cpu", "h100"):
        assert prepared["available_node_types"][group]["min_workers"] == 0


def test_ray_would_refuse_a_misspelt_field(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config["idle_timeout_minute"] = 5
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config(config))


def test_aws_accepts_every_node(config: dict[str, Any]) -> None:
    import boto3
    from botocore.validate import ParamValidator

    shape = boto3.client("ec2", region_name="us-east-1").meta.service_model.operation_model("RunInstances").input_shape
    for name, group in config["available_node_types"].items():
        request = {**group["node_config"], "MinCount": 1, "MaxCount": 1}
        request.pop("SubnetIds")  # Ray turns it into SubnetId, one for each node
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
