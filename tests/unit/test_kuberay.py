"""The KubeRay files and the Dockerfile against the operator's fields, Kubernetes' pod schema, the locks, each other."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ray

ROOT = Path(__file__).parents[2]
FILES = {"RayCluster": "raycluster.yaml", "RayJob": "rayjob.yaml", "RayService": "rayservice.yaml"}
CLUSTERS = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
SCHEMAS = json.loads((ROOT / "tests" / "fixtures" / "kuberay.json").read_text())
KUBERNETES = "1.33"


def load(kind: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "jobs" / FILES[kind]).read_text()))


def cluster_of(kind: str) -> dict[str, Any]:
    spec = load(kind)["spec"]
    return dict(spec[CLUSTERS[kind]] if kind in CLUSTERS else spec)


def pods(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    groups = {"head": cluster["headGroupSpec"], **{each["groupName"]: each for each in cluster["workerGroupSpecs"]}}
    return {name: group["template"] for name, group in groups.items()}


def check_resource(resource: dict[str, Any]) -> None:
    """Raises ValidationError where the operator or Kubernetes knows no such field, or wants another type."""
    kind, spec = resource["kind"], resource["spec"]
    schema = SCHEMAS["$defs"]["cluster"] if kind == "RayCluster" else SCHEMAS[kind]
    jsonschema.Draft202012Validator({**schema, "$defs": SCHEMAS["$defs"]}).validate(spec)
    for name, template in pods(spec[CLUSTERS[kind]] if kind in CLUSTERS else spec).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **template.get("metadata", {})}}
        kubernetes_validate.validate({**pod, "spec": template["spec"]}, KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", FILES)
def test_the_operator_and_kubernetes_know_every_field(kind: str) -> None:
    resource = load(kind)
    assert (resource["apiVersion"], resource["kind"]) == ("ray.io/v1", kind)
    check_resource(resource)


WRONG = {
    "the operator's": ("workerGroupSpecs", 0, "maxReplica"),
    "a type": ("workerGroupSpecs", 0, "maxReplicas"),
    "Kubernetes'": ("headGroupSpec", "template", "spec", "containers", 0, "images"),
    "a value": ("autoscalerOptions", "upscalingMode"),
}


@pytest.mark.parametrize("path", WRONG.values(), ids=WRONG)
def test_a_wrong_field_would_be_seen(path: tuple[Any, ...]) -> None:
    resource = copy.deepcopy(load("RayCluster"))
    *parents, last = path
    at = resource["spec"]
    for key in parents:
        at = at[key]
    at[last] = "wrong"
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_resource(resource)


@pytest.mark.parametrize("kind", FILES)
def test_what_every_cluster_has(kind: str) -> None:
    """No work on the head, workers from zero on, tokens, and a drain before a pod ends, within its grace."""
    cluster = cluster_of(kind)
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0
        spec = group["template"]["spec"]
        [container] = spec["containers"]
        *command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["python", "-m", "thinkscale.runtime.drain", "--now"]
        assert float(seconds) < spec["terminationGracePeriodSeconds"]
        limits = container["resources"]["limits"]
        assert limits == container["resources"]["requests"]
        assert container["image"].endswith("gpu" if "nvidia.com/gpu" in limits else "cpu")


def test_the_job_s_cluster_is_the_one_that_stays() -> None:
    assert cluster_of("RayJob") == cluster_of("RayCluster")
    groups = {group["groupName"] for group in cluster_of("RayCluster")["workerGroupSpecs"]}
    assert groups == {"cpu", "h100"}


def test_the_images_are_built_from_the_locks() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    targets = {stage.split()[2]: stage for stage in stages}
    for stage in stages:
        image = stage.split()[0]
        assert image in targets or re.search(r":\d+\.\d+\.\d+", image), f"{image} is not pinned"
    for kind in ("cpu", "gpu"):
        assert "--require-hashes" in targets[kind]
        assert f"-r requirements-{kind}.lock" in targets[kind]
        assert targets[kind].strip().endswith("USER 1000")
        lines = (ROOT / f"requirements-{kind}.lock").read_text()
        packages = re.findall(
            r"^([a-z0-9-]+)==\S+ \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", lines, re.MULTILINE
        )
        assert len(packages) == len(re.findall(r"^[^#\s]", lines, re.MULTILINE)) > 100
        assert f"ray=={ray.__version__} " in lines
    assert [kind for kind in ("cpu", "gpu") if "\nvllm==" in (ROOT / f"requirements-{kind}.lock").read_text()] == [
        "gpu"
    ]


@pytest.mark.parametrize(("kind", "extras"), [("cpu", ()), ("gpu", ("vllm", "gpu"))])
def test_the_locks_are_of_today_s_dependencies(kind: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in ("lora", "tensorboard", *extras):
        wanted += project["optional-dependencies"][extra]
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / f"requirements-{kind}.lock").read_text(), re.MULTILINE))
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked: make lock"
        assert requirement.specifier.contains(version), f"{requirement} is locked as {version}: make lock"
