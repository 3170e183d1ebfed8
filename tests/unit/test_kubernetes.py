"""The Kubernetes manifests, held to the API's own schemas and to the settings they are written for."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from lucid_events.config import Settings, fields

MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "lucid.yaml"
RELEASES = ("1.29", "1.33", kubernetes_validate.latest_version())
"""Of the cluster: old ones still run, and the newest takes things away."""
RUNS_PODS = ("Deployment", "StatefulSet", "Job")


def objects() -> list[dict[str, Any]]:
    """Return the manifests of the list."""
    found: list[dict[str, Any]] = yaml.safe_load(MANIFEST.read_text())["items"]
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pod that each workload runs, with the workload's name."""
    for one in objects():
        if one["kind"] in RUNS_PODS:
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def services() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield the pods that run until they are told to stop, with their one container."""
    for name, pod in pods():
        if "terminationGracePeriodSeconds" in pod:
            yield name, pod, pod["containers"][0]


def environment(container: dict[str, Any]) -> set[str]:
    """Return the names of the variables that a container gets, those of the config map among them."""
    maps = {one["metadata"]["name"]: one["data"] for one in objects() if one["kind"] == "ConfigMap"}
    named = {one["name"] for one in container.get("env", [])}
    for source in container.get("envFrom", []):
        named |= set(maps[source["configMapRef"]["name"]])
    return named


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("manifest", objects(), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_the_api_takes_every_manifest(manifest: dict[str, Any], release: str) -> None:
    """No field is unknown, of another type, or missing, by the schemas of that release."""
    kubernetes_validate.validate(manifest, release, strict=True)


def test_a_wrong_manifest_is_seen() -> None:
    """A misspelt field is an error, so the test above can fail."""
    manifest = objects()[-1]
    manifest["spec"]["prots"] = manifest["spec"].pop("ports")
    with pytest.raises(kubernetes_validate.ValidationError, match="prots"):
        kubernetes_validate.validate(manifest, RELEASES[-1], strict=True)


def test_every_variable_is_a_setting() -> None:
    """A variable that nobody reads would be a setting that is not in force."""
    known = {field.env for field in fields()} | {field.also for field in fields()}
    for name, pod in pods():
        for container in pod["containers"]:
            assert environment(container) - known == set(), name
            assert "NATS_URL" in environment(container), name


def test_no_container_can_write_or_rise() -> None:
    """As the images are made: user 65532, a read-only root, no capabilities, no way to get any."""
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == 65532, name
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True, name
            assert rights["allowPrivilegeEscalation"] is False, name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name


def test_everything_mounted_is_there() -> None:
    """A mount without a volume is found by the cluster only when a pod is to start."""
    for one in objects():
        if one["kind"] not in RUNS_PODS:
            continue
        pod = one["spec"]["template"]["spec"]
        claimed = [claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])]
        volumes = {volume["name"] for volume in pod["volumes"]} | set(claimed)
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_a_service_is_probed_on_a_port_it_has() -> None:
    """Alive and ready are asked on a named port of the container itself."""
    seen = set()
    for name, _, container in services():
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        paths = {"livenessProbe": "/health/live", "readinessProbe": "/health/ready"}
        for probe, path in paths.items():
            asked = container[probe]["httpGet"]
            assert asked["path"] == path, name
            assert asked["port"] in ports, name
        seen |= set(ports.values())
    defaults = Settings().http
    assert {defaults.pipeline_port, defaults.recorder_port} < seen


def test_a_pod_has_longer_to_end_than_its_service_takes() -> None:
    """Else the kubelet kills what still finishes its work."""
    assert [name for name, _, _ in services()] == ["lucid-worker", "lucid-pipeline", "lucid-recorder"]
    for name, pod, _ in services():
        assert pod["terminationGracePeriodSeconds"] > Settings().shutdown_s, name


def test_a_service_reaches_the_pods_it_names() -> None:
    """Its selector are labels of a workload's pods, its port one that their container names."""
    workloads = [one for one in objects() if one["kind"] in ("Deployment", "StatefulSet")]
    for service in (one for one in objects() if one["kind"] == "Service"):
        wanted = service["spec"]["selector"].items()
        (found,) = [w for w in workloads if wanted <= w["spec"]["template"]["metadata"]["labels"].items()]
        (container,) = found["spec"]["template"]["spec"]["containers"]
        assert service["spec"]["ports"][0]["targetPort"] in {port["name"] for port in container["ports"]}


def test_the_secrets_used_are_the_ones_its_head_tells_to_make() -> None:
    """Who follows the comment at the top has every secret that a pod mounts, with the files in it."""
    head = MANIFEST.read_text().partition("apiVersion")[0]
    told = {
        name: set(re.findall(r"--from-file=(\S+)", files))
        for name, files in re.findall(r"create secret generic (\S+) (.*)", head)
    }
    for _, pod in pods():
        for secret in (volume["secret"] for volume in pod["volumes"] if "secret" in volume):
            assert {item["key"] for item in secret.get("items", [])} <= told[secret["secretName"]]
