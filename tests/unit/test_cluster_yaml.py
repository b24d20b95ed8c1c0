"""cluster.yaml against Ray's validation, AWS's request schema and, by moto, AWS; the policies against Ray's calls."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.client import BaseClient
from botocore.validate import ParamValidator
from moto import mock_aws
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
GROUPS = ("cpu", "h100")
MARKETS = {"on demand": [], "spot": ["spot"], "capacity block": ["capacity_block"]}


@pytest.fixture
def config() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


def variant(market: list[str], network: str) -> dict[str, Any]:
    """cluster.yaml whose worker groups are bought and connected in another way: other names in their `<<` lists."""
    text = (ROOT / "cluster.yaml").read_text()
    names = ", ".join(f"*{name}" for name in ["machine", network, "worker", *market])
    text, count = re.subn(r"<<: \[\*machine, \*\w+, \*worker[^]]*\]", f"<<: [{names}]", text)
    assert count == len(GROUPS)
    return dict(yaml.safe_load(text))


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", *GROUPS}
    for group in GROUPS:
        assert prepared["available_node_types"][group]["min_workers"] == 0


def test_ray_would_refuse_a_misspelt_field(config: dict[str, Any]) -> None:
    config["idle_timeout_minute"] = 5
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config(config))


def test_only_the_account_s_own_ids_are_left_to_fill_in(config: dict[str, Any]) -> None:
    found = set(re.findall(r"[\w:-]*CHANGE[\w:/-]*", yaml.safe_dump(config)))
    assert found == {
        "ami-CHANGE", "subnet-CHANGE", "sg-CHANGE", "cr-CHANGE",
        *(f"arn:aws:iam::CHANGE:instance-profile/thinkscale-{kind}" for kind in ("head", "worker")),
    }  # fmt: skip


@pytest.mark.parametrize("network", ["network", "efa"])
@pytest.mark.parametrize("market", MARKETS.values(), ids=MARKETS)
def test_aws_would_take_every_request(market: list[str], network: str) -> None:
    config = variant(market, network)
    validate_config(prepare_config(config))
    shape = boto3.client("ec2", region_name="us-east-1").meta.service_model.operation_model("RunInstances").input_shape
    for name, group in config["available_node_types"].items():
        request = {**group["node_config"], "MinCount": 1, "MaxCount": 1}
        request.pop("SubnetIds", None)  # Ray turns it into SubnetId, one for each node
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert request["MetadataOptions"]["HttpTokens"] == "required"
        assert ("NetworkInterfaces" in request) != ("SecurityGroupIds" in request)


def test_a_p5_gets_all_its_network_cards(config: dict[str, Any]) -> None:
    first, *others = config["available_node_types"]["h100"]["node_config"]["NetworkInterfaces"]
    places = [(each["NetworkCardIndex"], each["DeviceIndex"]) for each in others]
    assert (first["NetworkCardIndex"], first["DeviceIndex"], first["InterfaceType"]) == (0, 0, "interface")
    assert places == [(0, 1), *((card, 0) for card in range(1, 32))]
    assert {each["InterfaceType"] for each in others} == {"efa-only"}


def test_workers_watch_for_their_end_and_all_present_the_token(config: dict[str, Any]) -> None:
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    for line in starts:
        assert "RAY_AUTH_MODE=token" in line or line.endswith("ray stop")
    assert any(
        "thinkscale.runtime.drain --address=$RAY_HEAD_IP" in line for line in config["worker_start_ray_commands"]
    )
    assert "apt" not in " ".join(config["setup_commands"])
    for line in [*starts, *config["setup_commands"]]:
        subprocess.run(["bash", "-n", "-c", line], check=True)


class Account:
    """An empty account by moto, filled as docs/cluster.md says, and the calls that are made in it."""

    def __init__(self) -> None:
        ec2 = boto3.resource("ec2", region_name="us-east-1")
        iam = boto3.client("iam", region_name="us-east-1")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")
        subnet = vpc.create_subnet(CidrBlock="10.0.0.0/20", AvailabilityZone="us-east-1a")
        group = vpc.create_security_group(GroupName="thinkscale", Description="thinkscale")
        group.authorize_ingress(IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group.id}]}])
        for kind in ("head", "worker"):
            iam.create_instance_profile(InstanceProfileName=f"thinkscale-{kind}")
        image = boto3.client("ec2", region_name="us-east-1").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        text = (ROOT / "cluster.yaml").read_text().replace("ami-CHANGE", image)
        text = text.replace("iam::CHANGE", "iam::123456789012")
        text = text.replace("subnet-CHANGE", subnet.id).replace("sg-CHANGE", group.id)
        self.config = prepare_config(yaml.safe_load(text))
        self.group = group


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:  # of an S3 server of other tests, say
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes keys below it
    with mock_aws():
        yield Account()


def test_ray_creates_and_ends_every_kind_of_node_with_no_more_than_its_policies(
    account: Account, calls: set[str]
) -> None:
    """The head has its own and the workers' policy; whoever runs `ray up` has the user's as well."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    calls.clear()
    filled = AWSNodeProvider.fillout_available_node_types_resources(account.config)
    found = {name: group["resources"] for name, group in filled["available_node_types"].items()}
    assert found["head"] == {"CPU": 0}
    assert found["cpu"]["CPU"] == 32
    assert (found["h100"]["GPU"], found["h100"]["accelerator_type:H100"]) == (8, 1)
    config = AWSNodeProvider.bootstrap_config(filled)
    assert calls <= allowed("head", "worker", "user")
    calls.clear()
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, group in config["available_node_types"].items():
        tags = {"ray-node-type": "head" if name == "head" else "worker", "ray-user-node-type": name}
        provider.create_node(group["node_config"], tags, 1)
    nodes = provider.non_terminated_nodes({})
    kinds = {provider.node_tags(node)["ray-user-node-type"]: node for node in nodes}
    assert set(kinds) == {"head", *GROUPS}
    provider.set_node_tags(kinds["cpu"], {"ray-node-status": "up-to-date"})
    instances = {name: boto3.resource("ec2", region_name="us-east-1").Instance(node) for name, node in kinds.items()}
    for name, instance in instances.items():
        assert instance.metadata_options["HttpTokens"] == "required"
        assert instance.iam_instance_profile["Arn"].endswith(
            "thinkscale-head" if name == "head" else "thinkscale-worker"
        )
    for name in ("head", "cpu"):
        assert [group["GroupId"] for group in instances[name].security_groups] == [account.group.id]
    assert (instances["head"].instance_lifecycle, instances["cpu"].instance_lifecycle) == (None, "spot")
    provider.terminate_nodes(nodes)
    assert provider.non_terminated_nodes({}) == []
    assert calls <= allowed("head", "worker")
    assert {"ec2:RunInstances", "ec2:TerminateInstances"} <= calls


def test_policies_reach_no_further_than_a_prefix_and_the_cluster_s_own_nodes() -> None:
    for name in ("head", "worker", "user"):
        for statement in statements(name):
            assert not any("*" in action for action in actions(statement)), statement["Sid"]
            changes = [
                each for each in actions(statement) if not re.match(r"ec2:Describe|ssm:Update|ssmmessages:", each)
            ]
            assert not changes or statement["Resource"] != "*", statement["Sid"]
            if {"ec2:TerminateInstances", "iam:PassRole"} & set(changes):
                assert "Condition" in statement
    artifacts = [each for each in statements("worker") if any(action.startswith("s3:") for action in actions(each))]
    objects = [each["Resource"] for each in artifacts if "Condition" not in each]
    assert fnmatchcase("arn:aws:s3:::BUCKET/campaigns/mine/manifest.json", objects[0])
    for other in ("arn:aws:s3:::BUCKET/else/x", "arn:aws:s3:::OTHER/campaigns/x", "arn:aws:s3:::BUCKET"):
        assert not any(fnmatchcase(other, pattern) for pattern in objects)


def statements(name: str) -> list[dict[str, Any]]:
    return list(json.loads((ROOT / "docs" / "aws-policies.json").read_text())[name]["Statement"])


def actions(statement: dict[str, Any]) -> list[str]:
    found = statement["Action"]
    return [found] if isinstance(found, str) else list(found)


def allowed(*names: str) -> set[str]:
    return {action for name in names for statement in statements(name) for action in actions(statement)}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every call of AWS, as policies name it."""
    found: set[str] = set()
    make = BaseClient._make_api_call

    def record(self: BaseClient, operation: str, arguments: Any) -> Any:
        found.add(f"{self.meta.service_model.service_name}:{operation}")
        return make(self, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", record)
    return found
