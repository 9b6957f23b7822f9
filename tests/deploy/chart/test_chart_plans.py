"""The set of plans and its Job: a set that pods serve is never built again from other inputs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.image import assemble, build_plans
from tests.deploy.rendering import CHART, DEPLOYMENTS, ROOT, helm, named, notes, objects, pod, rendered, server

GPU = "values-gpu-80"
FP8 = ('placement.experts="fp8"', 'checkpoint.fp8Ranges="a.json"')
PRODUCT = "nvidia.com/gpu.product"


def affinity_to(label: str, *values: str) -> str:
    term = {"matchExpressions": [{"key": label, "operator": "In", "values": values}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return f"affinity={json.dumps({'nodeAffinity': required})}"


def assembled_set(values: str, *settings: str) -> str:
    arguments = named(pod(values, *settings)["initContainers"], "repository")["args"]
    return str(arguments[arguments.index("--plan-set") + 1])


def job_name(*settings: str) -> str:
    (job,) = objects(GPU, "Job", *settings)
    return str(job["metadata"]["name"])


def test_the_job_and_the_pods_mean_the_same_set_of_plans() -> None:
    for values in DEPLOYMENTS[1:]:
        (job,) = pod(values, kind="Job")["containers"]
        built = build_plans.parser().parse_args(job["args"])
        taken = assemble.parser().parse_args(named(pod(values)["initContainers"], "repository")["args"])
        assert built.into == taken.plan_set
        assert built.sizes.split(",") == taken.placement[taken.placement.index("--size") + 1 :][:1]
        assert (
            json.loads(taken.expected_options)
            == server(values)["args"][1 : 1 + len(json.loads(taken.expected_options))]
        )


OTHER_INPUTS = [
    ('image.tag="0.2.0"',),
    (f'image.digest="sha256:{"3" * 64}"',),
    ('placement={"gpus":["141"],"sizes":["720x1280x81"]}',),
    ('placement.vae="bf16"',),
    ('checkpoint.path="B"',),
    ('checkpoint.existingClaim="b"',),
    ('placement.textEncoder="gpu"',),
    ('placement.vaeEngine="torch"',),
    ('gpu.products=["NVIDIA-H200"]',),
    ('gpu.resourceName="nvidia.com/mig-7g.80gb"',),
    (f'nodeSelector={{"{PRODUCT}":"NVIDIA-H200"}}',),
    ("gpu.products=[]", affinity_to(PRODUCT, "NVIDIA-H200")),
]


@pytest.mark.parametrize("settings", OTHER_INPUTS)
def test_other_inputs_of_the_plans_have_a_set_and_a_job_of_their_own(settings: tuple[str, ...]) -> None:
    """An upgrade of them must not replace plans that running pods hold."""
    assert assembled_set(GPU, *settings) != assembled_set(GPU)
    assert job_name(*settings) != job_name()


@pytest.mark.parametrize(("label", "is_another_set"), [(PRODUCT, True), ("topology.kubernetes.io/zone", False)])
def test_of_an_affinity_the_products_alone_make_another_set(label: str, *, is_another_set: bool) -> None:
    one, two = (assembled_set(GPU, "gpu.products=[]", affinity_to(label, name)) for name in ("A", "B"))
    assert (one != two) == is_another_set


def test_further_sizes_make_another_set() -> None:
    one, two = ('["480x832x81"]', '["480x832x81","720x1280x81"]')
    assert assembled_set("values-gpu-141", f"placement.sizes={one}", 'placement.doors="stream"') != assembled_set(
        "values-gpu-141", f"placement.sizes={two}", 'placement.doors="stream"'
    )


def test_other_ranges_have_a_set_of_their_own_where_they_are_read() -> None:
    assert assembled_set(GPU, *FP8) != assembled_set(GPU, *FP8, 'checkpoint.fp8Ranges="b.json"')
    assert assembled_set(GPU) == assembled_set(GPU, 'checkpoint.fp8Ranges="b.json"')


OF_THE_JOB = [
    ('plans.existingClaim="other"',),
    ("plans.job.memoryGib=200",),
    ("resources.tmpGib=7",),
    ('tolerations=[{"operator":"Exists"}]',),
    ('nodeSelector={"zone":"a"}',),
    ("gpu.products=[]", affinity_to("zone", "a")),
    ('image.pullPolicy="Always"',),
    ('image.pullSecrets=["registry"]',),
]


@pytest.mark.parametrize("settings", OF_THE_JOB)
def test_a_changed_job_has_another_name_since_kubernetes_changes_none(settings: tuple[str, ...]) -> None:
    assert job_name(*settings) != job_name()


def test_a_changed_job_builds_the_same_set_from_the_same_inputs() -> None:
    for settings in OF_THE_JOB:
        if "gpu.products=[]" not in settings:
            assert assembled_set(GPU, *settings) == assembled_set(GPU), settings


def test_a_set_that_the_operator_names_has_a_job_for_each_of_its_inputs() -> None:
    fixed = 'plans.set="mine"'
    *others, same_gpu = OTHER_INPUTS  # an affinity, whose spec is that of the products' names
    names = {job_name(fixed, *settings) for settings in others}
    assert len(names) == len(others) and job_name(fixed) not in names
    assert job_name(fixed, *same_gpu) in names


# The names of the sets before the chart made them from the checkpoint and the torch programs as well.
OLDER_NAMES = {
    "values-gpu-80": "480x832x81-bf16-89fc9f7c",
    "values-gpu-2x80": "720x1280x81-bf16-04d9c990",
    "values-gpu-141": "720x1280x81-bf16-415dfdf9",
}


def without_job(values: str, *settings: str) -> dict[str, Any]:
    """All objects but the Job and the Secret, whose key is another one in every rendering."""
    kept = [entry for entry in rendered(values, *settings) if entry["kind"] not in ("Job", "Secret")]
    return {f"{entry['kind']} {entry['metadata']['name']}": entry for entry in kept}


@pytest.mark.parametrize(("values", "name"), OLDER_NAMES.items())
def test_a_set_of_an_older_chart_is_kept_by_its_name(values: str, name: str) -> None:
    """As docs/run/kubernetes.md says under Upgrade: nothing changes but the name of the set, and no Job is needed."""
    kept = (f'plans.set="{name}"', "plans.job.enabled=false")
    assert assembled_set(values) != f"/plans/{name}" == assembled_set(values, *kept)
    renamed = json.dumps(without_job(values)).replace(assembled_set(values), f"/plans/{name}")
    assert json.loads(renamed) == without_job(values, *kept) and not objects(values, "Job", *kept)
    assert f"set {name}." in notes(values, *kept)


EMPTY = [
    ("gpu.products=null", "gpu.products=[]"),
    ("nodeSelector=null", "nodeSelector={}"),
    ("affinity=null", "affinity={}"),
    ('affinity={"nodeAffinity":null}', "affinity={}"),
    ('affinity={"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":null}}', "affinity={}"),
    (
        'affinity={"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":null}}}',
        "affinity={}",
    ),
    (
        'affinity={"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":'
        '{"nodeSelectorTerms":[null,{"matchExpressions":null},{"matchExpressions":[null,{"key":null}]}]}}}',
        "affinity={}",
    ),
    ("checkpoint.path=null", 'checkpoint.path=""'),
    ("checkpoint.fp8Ranges=null", 'checkpoint.fp8Ranges=""'),
    ("image.tag=null", 'image.tag=""'),
    ("placement.textEncoder=null", 'placement.textEncoder=""'),
    ("placement.vaeEngine=null", 'placement.vaeEngine=""'),
    ("placement.options=null", "placement.options=[]"),
]


@pytest.mark.parametrize(("null", "empty"), EMPTY)
def test_a_value_that_is_null_has_the_set_of_an_empty_one(null: str, empty: str) -> None:
    one, two = (assembled_set(GPU, "gpu.products=[]", setting) for setting in (null, empty))
    assert one == two


def test_without_a_claim_of_the_checkpoint_null_and_empty_are_one() -> None:
    no_job = "plans.job.enabled=false"
    one, two = (assembled_set(GPU, no_job, f"checkpoint.existingClaim={value}") for value in ("null", '""'))
    assert one == two


@pytest.mark.parametrize("affinity", ["affinity=null", 'affinity={"nodeAffinity":null}'])
def test_an_empty_affinity_leaves_the_products_in_force(affinity: str) -> None:
    """A second, empty nodeAffinity in the same object would replace the first."""
    for kind in ("Deployment", "Job"):
        assert pod(GPU, affinity, kind=kind)["affinity"] == pod(GPU, kind=kind)["affinity"]


def test_the_job_has_the_labels_by_which_the_page_deletes_it() -> None:
    page = (ROOT / "docs/run/kubernetes.md").read_text()
    assert "### Run the Job again" in page, "the messages name it"
    (selector,) = re.findall(r"delete job --selector (\S+)", page)
    (job,) = objects(GPU, "Job")
    wanted = dict(pair.split("=") for pair in selector.split(","))
    assert wanted.items() <= job["metadata"]["labels"].items()


def test_a_new_version_of_the_chart_alone_makes_no_new_job() -> None:
    (job,) = objects(GPU, "Job")
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()


def test_what_only_the_servers_read_changes_neither_set_nor_job() -> None:
    for setting in ("replicas=3", "drain.waitSeconds=60", 'podLabels={"a":"b"}', "resources.memoryGib=100"):
        assert (assembled_set(GPU, setting), job_name(setting)) == (assembled_set(GPU), job_name()), setting


SCALED = {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}


@pytest.mark.parametrize("kind", SCALED)
def test_without_replicas_no_autoscaler_takes_the_gpu_that_the_job_needs(kind: str) -> None:
    autoscaling = f'autoscaling.type="{kind}"'
    (deployment,) = objects(GPU, "Deployment", autoscaling, "replicas=0")
    assert deployment["spec"]["replicas"] == 0, "a Deployment without the field has one pod"
    assert not objects(GPU, SCALED[kind], autoscaling, "replicas=0")
    assert objects(GPU, SCALED[kind], autoscaling, "replicas=1")


@pytest.mark.parametrize("others", ["ci/everything-values", "ci/jobs-values"])
def test_a_release_for_plans_alone_takes_nothing_of_the_serving_one(others: str) -> None:
    files = [part for name in (others, GPU, "values-plans-only") for part in ("--values", f"{CHART}/{name}.yaml")]
    done = helm("template", "next", str(CHART), *files, "--set", "engine=tensorrt,plans.job.enabled=true")
    assert done.returncode == 0, done.stderr
    made = {entry["kind"]: entry for entry in yaml.safe_load_all(done.stdout) if entry}
    allowed = {"Deployment", "Job", "NetworkPolicy", "PersistentVolumeClaim", "Secret", "Service", "ServiceAccount"}
    assert {"Deployment", "Job"} <= made.keys() <= allowed
    assert made["Deployment"]["spec"]["replicas"] == 0


def test_a_release_for_plans_alone_has_names_of_its_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("fullnameOverride: video\n")
    files = [
        part for file in (CHART / f"{GPU}.yaml", mine, CHART / "values-plans-only.yaml") for part in ("-f", str(file))
    ]
    done = helm("template", "next", str(CHART), *files, "--set", "plans.job.enabled=true")
    assert done.returncode == 0, done.stderr
    names = {entry["metadata"]["name"] for entry in yaml.safe_load_all(done.stdout) if entry}
    assert names and all(name.startswith("next-") for name in names), names


def test_a_release_for_plans_alone_builds_the_set_of_the_serving_one() -> None:
    only = yaml.safe_load((CHART / "values-plans-only.yaml").read_text())
    settings = tuple(f"{name}={json.dumps(value)}" for name, value in only.items())
    assert assembled_set(GPU, *settings) == assembled_set(GPU) and job_name(*settings) == job_name()


def test_the_volume_of_plans_survives_an_uninstall() -> None:
    (claim,) = objects("values-gpu-80", "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
