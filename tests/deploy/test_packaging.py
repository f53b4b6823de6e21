"""Container and manifests: valid by Kubernetes' own schemas, consistent with one another and with their commands."""

import copy
import http.server
import json
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from probinfer import cli
from probinfer.deploy.meter import ROUTES, STATUSES, Meter
from probinfer.deploy.settings import ServeSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
VERSIONS = ("1.31", "1.37")


def load(path):
    return yaml.safe_load(path.read_text())


def instructions() -> dict[str, list[str]]:
    """What the Dockerfile says, by instruction; those of the last stage where one repeats."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest.strip())
    return found


def user() -> str:
    return instructions()["USER"][-1].partition(":")[0]


def resources():
    return {path.name: load(path) for path in MANIFESTS if path.name != "kustomization.yaml"}


def pod_specs():
    """Every pod that the manifests describe, by file, with KServe's, which takes a pod's fields among its own."""
    found = {
        name: resource["spec"]["template"]["spec"]
        for name, resource in resources().items()
        if "template" in resource["spec"]
    }
    predictor = dict(load(DEPLOY / "kserve/inferenceservice.yaml")["spec"]["predictor"])
    for own in ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"):
        del predictor[own]
    return {**found, "inferenceservice.yaml": predictor}


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(version):
    checked = [kubernetes_validate.validate(resource, version, strict=True) for resource in resources().values()]
    assert len(checked) == 5


@pytest.mark.parametrize("version", VERSIONS)
def test_the_inference_service_holds_a_valid_pod(version):
    service = load(DEPLOY / "kserve/inferenceservice.yaml")
    assert set(service) == {"apiVersion", "kind", "metadata", "spec"}
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert set(service["spec"]) == {"predictor"}
    predictor = service["spec"]["predictor"]
    assert predictor["scaleMetric"] in ("cpu", "memory", "concurrency", "rps")
    assert 0 < predictor["minReplicas"] <= predictor["maxReplicas"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod_specs()["inferenceservice.yaml"]}
    kubernetes_validate.validate(pod, version, strict=True)
    assert [container["name"] for container in predictor["containers"]] == ["kserve-container"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d["spec"]["template"]["spec"]["containers"][0].update(readinesProbe={}),
        lambda d: d["spec"]["template"]["spec"].update(terminationGracePeriodSeconds="long"),
        lambda d: d["spec"].pop("selector"),
    ],
    ids=["misspelt", "wrong type", "missing"],
)
def test_damaged_manifests_are_noticed(damage):
    damaged = copy.deepcopy(resources()["deployment.yaml"])
    damage(damaged)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(damaged, VERSIONS[-1], strict=True)


def test_the_manifests_fit_one_another():
    found = resources()
    deployment = found["deployment.yaml"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    for name in ("service.yaml", "disruption.yaml", "deployment.yaml"):
        selector = found[name]["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= labels.items(), name
    assert found["service.yaml"]["spec"]["ports"][0]["targetPort"] in [port["name"] for port in container["ports"]]
    target = found["autoscaler.yaml"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (deployment["kind"], deployment["metadata"]["name"])
    assert found["disruption.yaml"]["spec"]["minAvailable"] < found["autoscaler.yaml"]["spec"]["minReplicas"]
    assert "replicas" not in deployment["spec"]  # applying it again would undo the autoscaler
    listed = load(DEPLOY / "kubernetes/kustomization.yaml")["resources"]
    assert sorted(listed) == sorted(set(found) - {"score-job.yaml"})


def test_pods_are_locked_down():
    for name, spec in pod_specs().items():
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert str(spec["securityContext"]["runAsUser"]) == user(), name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert "memory" in container["resources"]["limits"], name
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in spec["volumes"]}, name
            assert not mounts["/tmp"].get("readOnly"), name  # the only place to write that every pod needs


def test_probes_ask_the_port_that_the_server_is_given():
    for name, spec in pod_specs().items():
        container = spec["containers"][0]
        if container["args"][0] != "serve":
            continue
        port = int(container["args"][container["args"].index("--port") + 1])
        assert [entry["containerPort"] for entry in container["ports"]] == [port], name
        ready, live = "/v2/health/ready", "/v2/health/live"
        for probe, path in (("startupProbe", ready), ("readinessProbe", ready), ("livenessProbe", live)):
            asked = container[probe]["httpGet"]
            assert asked["path"] == path
            assert asked["port"] in (port, container["ports"][0].get("name")), name
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 300, name  # the first start compiles
    assert "--start-period=300s" in instructions()["HEALTHCHECK"][0]


def test_pods_are_told_to_go_on_until_the_nodes_know_and_are_given_the_time():
    for name, spec in pod_specs().items():
        command = spec["containers"][0]["args"]
        if command[0] != "serve":
            continue
        options = cli.parser().parse_args(command)
        assert options.drain >= 5, name
        grace = spec.get("terminationGracePeriodSeconds", 30)
        finishing = options.shutdown_timeout or ServeSettings((("m", Path("m")),)).shutdown_timeout
        assert options.drain + finishing < grace, name


def commands():
    yield from ((name, spec["containers"][0]["args"]) for name, spec in pod_specs().items())
    yield "Dockerfile", json.loads(instructions()["CMD"][-1])
    shown = re.sub(r"\\\n#", " ", (DEPLOY / "Dockerfile").read_text())
    for line in re.findall(r"^#\s+docker run (.*)", shown, flags=re.MULTILINE):
        if command := line.partition(" probinfer")[2]:
            yield "Dockerfile's comment", shlex.split(command)


@pytest.mark.parametrize(("place", "command"), list(commands()))
def test_the_commands_parse(place, command):
    if command[0] not in cli.parser()._subparsers._group_actions[0].choices:
        pytest.skip(f"this version has no command {command[0]}")
    assert cli.parser().parse_args(command).command is not None


def test_the_image_is_small_and_without_rights():
    found = instructions()
    assert set(found) <= {
        "ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    assert len(found["FROM"]) == 2  # what builds is not what runs
    assert all(image.split()[0].endswith("-slim") for image in found["FROM"])
    assert user().isdecimal()
    assert int(user()) >= 10_000
    assert not re.search(r"(?i)password|secret|token", " ".join(found["ENV"] + found["ARG"]))


def test_what_the_image_copies_is_there_and_sent_to_the_builder():
    sent = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for line in instructions()["COPY"] if "--from" not in line for word in line.split()[:-1]]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / name).exists() for name in copied)


def extras(text: str, given: str | None = None) -> list[str]:
    """The options that the shell makes of a `uv sync` line, for the extras given or those of the file."""
    (usual,) = (line.partition("=")[2] for line in instructions()["ARG"] if line.startswith("EXTRAS"))
    script = f"EXTRAS={shlex.quote(given) if given else usual}; printf '%s\\n' {text}"
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    ("given", "there"),
    [
        (None, {"uvicorn", "duckdb", "adbc-driver-postgresql"}),
        ("serve onnx stream", {"uvicorn", "onnxruntime", "redis"}),
    ],
)
def test_the_lock_has_what_the_image_installs(given, there):
    lines = [line for line in instructions()["RUN"] if line.startswith("uv sync")]
    assert len(lines) == 2
    for line in lines:
        words = extras(line, given)[2:]
        options = [word for word in words if word not in ("--no-editable", "--no-install-project")]
        assert options.count("--extra") == len((given or "serve sql").split())
        exported = subprocess.run(
            ["uv", "export", "--offline", "--quiet", "--no-hashes", *options], cwd=ROOT, capture_output=True, text=True
        )
        assert exported.returncode == 0, exported.stderr
        names = {line.partition("==")[0] for line in exported.stdout.splitlines()}
        assert there <= names
        assert names.isdisjoint({"pytest", "matplotlib", "sphinx"})


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (None, False)])
def test_the_health_check(status, healthy):
    """The very command, at a server that is ready, at one that is not, and at none."""
    check = instructions()["HEALTHCHECK"][0].partition("CMD ")[2]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/v2/health/ready" else 404)
            self.end_headers()

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        program, *arguments = json.loads(check.replace(":8080/", f":{server.server_port if status else 9}/"))
        assert program == "python"
        found = subprocess.run([sys.executable, *arguments], capture_output=True, timeout=60)
        server.shutdown()
        thread.join()
    assert (found.returncode == 0) is healthy


# alerts --------------------------------------------------------------------------------------------------------------

COUNTED = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


def alerts():
    groups = load(DEPLOY / "prometheus/alerts.yaml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def faults_of(expr: str) -> list[str]:
    """What an expression asks for that no server tells: metrics, labels and their values."""
    told = (
        Meter(["m", "joint"], outcomes={"joint": ["a", "b"]}).text()
        + 'probinfer_model_ready{model="m",version="v"} 1\nprobinfer_artifact_refused{model="m"} 0\n'
    )
    kinds = dict(re.findall(r"# TYPE (\w+) (\w+)", told))
    names = {f"{name}{end}" for name, kind in kinds.items() for end in COUNTED.get(kind, ("",))}
    names |= {"probinfer_model_ready", "probinfer_artifact_refused"}
    faults = [name for name in re.findall(r"probinfer_\w+", expr) if name not in names]
    values = {"status": STATUSES, "route": ROUTES, "job": ("probinfer",)}
    for label, words in re.findall(r'(\w+)=~?"([^"]*)"', expr):
        faults += [word for word in words.split("|") if word not in values.get(label, ())]
    labels = {"model", "outcome", "level", "le", "instance", "watched"}
    faults += [name for by in re.findall(r"by \(([^)]*)\)", expr) for name in by.split(", ") if name not in labels]
    return faults + (["brackets"] if expr.count("(") != expr.count(")") or expr.count("[") != expr.count("]") else [])


def test_alerts_ask_for_what_the_server_tells():
    assert len({rule["alert"] for rule in alerts()}) == len(alerts()) == 14
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m")), rule
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert faults_of(rule["expr"]) == [], rule["alert"]
    expr = next(rule["expr"] for rule in alerts() if rule["alert"] == "ProbinferOverloaded")
    for change in [("requests_total", "request_total"), ("429", "428"), ("status", "code"), ("))", ")")]:
        assert faults_of(expr.replace(*change))  # the twins


def test_the_runbook_says_what_to_do_for_each_alert():
    rows = re.findall(r"^\| `(Probinfer\w+)` \|(.*)\|$", (ROOT / "docs/serving.md").read_text(), flags=re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(rule["alert"] for rule in alerts())
    assert all(len(cell.strip()) > 5 for _, row in rows for cell in row.split("|"))
