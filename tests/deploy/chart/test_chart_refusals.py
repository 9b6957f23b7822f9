"""Wrong values end the rendering, with a message that says what is accepted."""

import pytest

from tests.deploy.rendering import template

BIG = 'placement={"gpus":["%s"],"sizes":["720x1280x81"],"experts":"%s","vae":"fp32","doors":"both"}'


@pytest.mark.parametrize(
    ("values", "setting", "message"),
    [
        ("values-gpu-80", BIG % ("80", "bf16"), "GPU 0 needs 85.1 of 75.0 GiB"),
        ("values-gpu-80", BIG % ("80", "bf16"), "one endpoint only"),
        ("values-gpu-80", BIG % ("48", "bf16"), "48 GB cannot hold 720x1280x81 with experts in bf16"),
        ("values-gpu-141", 'placement.sizes=["720x1280x81","480x832x81"]', "accepted: 480x832x81; "),
        ("values-gpu-141", 'placement.gpus=["80","141"]', "accepted: 48; 48+48; 80"),
        ("values-gpu-80", 'placement.gpus=["24"]', "/placement/gpus/0"),
        ("values-gpu-80", "placement.gpus=[80]", "got number, want string"),
        ("values-gpu-80", 'placement.experts="fp16"', "/placement/experts"),
        ("values-gpu-80", 'placement.size=["480x832x81"]', "'size' not allowed"),
        ("values-gpu-80", 'replicas="two"', "/replicas"),
        ("values-gpu-80", "drain.waitSeconds=0", "/drain/waitSeconds"),
        ("values-gpu-80", "drain.marginSeconds=10", "/drain/marginSeconds"),
        (
            "values-cpu",
            "gateway.idleTimeoutSeconds=100000",
            "/gateway/idleTimeoutSeconds",
        ),  # no duration of Gateway API
        ("values-gpu-80", "probes.timeoutSeconds=2", "/probes/timeoutSeconds"),
        ("values-gpu-80", 'image.digest="latest"', "/image/digest"),
        ("values-gpu-80", 'server.restrictedProtocols=["models"]', "/server/restrictedProtocols/0"),
        ("values-gpu-80", 'checkpoint.existingClaim=""', "checkpoint.existingClaim: name the volume"),
        ("values-gpu-80", "plans.create.enabled=false", "set plans.existingClaim, or plans.create.enabled"),
        ("values-gpu-80", 'placement.experts="fp8"', "checkpoint.fp8Ranges"),
        ("values-gpu-80", 'placement.experts="int8-bf16"', "checkpoint.fp8Ranges"),
        ("values-cpu", "resources.memoryGib=0", "resources.memoryGib: must be set"),
        ("values-cpu", "resources.shmGib=0", "resources.shmGib: must be set"),
        ("values-cpu", 'engine="torch"', "/engine"),
        ("values-cpu", "tls.enabled=true", "tls.existingSecret"),
        ("values-cpu", "authProxy.enabled=true", "authProxy.image"),
        ("values-cpu", "ingress.enabled=true", "ingress.host"),
        ("values-cpu", "gateway.enabled=true", "gateway.parentRefs"),
        ("ci/everything-values", 'gateway.backendTls.hostname=""', "gateway.backendTls.hostname: with tls"),
        ("values-cpu", "probes.liveGraceSeconds=5", "/probes/liveGraceSeconds"),
        (
            "values-cpu",
            'monitoring.rules={"enabled":true,"without":["WanT2vGone"]}',
            "accepted: WanT2vAbsent, WanT2vDown",
        ),
        ("values-cpu", "monitoring.rules.queuedPerPod=4", "'queuedPerPod' not allowed"),
        ("values-cpu", 'monitoring.dashboard.labels={"grafana_dashboard":1}', "/monitoring/dashboard/labels"),
        ("values-cpu", 'autoscaling={"type":"keda","minReplicas":5}', "minReplicas: 5 is more than"),
        ("values-cpu", 'server.restrictedProtocols=["health"]', "/server/restrictedProtocols/0"),
        ("values-cpu", 'server.restrictedProtocols=["metadata"]', "/server/restrictedProtocols/0"),
        ("values-cpu", "tls.clientAuth=true", "without tls.enabled no client is asked"),
        ("ci/everything-values", "tls.clientAuth=true", "with authProxy Triton speaks no TLS"),
        ("values-cpu", "updateStrategy.maxUnavailable=0", "no pod could be replaced"),
        ("values-cpu", 'updateStrategy={"maxSurge":"0%","maxUnavailable":"00%"}', "no pod could be replaced"),
        ("values-cpu", 'updateStrategy.maxUnavailable="101%"', "/updateStrategy/maxUnavailable"),
        ("values-cpu", 'podDisruptionBudget.maxUnavailable="101%"', "/podDisruptionBudget/maxUnavailable"),
        ("ci/everything-values", "authProxy.port=8001", "authProxy.port: 8001 belongs to another container"),
        ("values-cpu", 'resources.cpu="8Gi"', "/resources/cpu"),
        ("values-cpu", 'plans.job.cpu="8Gi"', "/plans/job/cpu"),
        ("values-cpu", 'authProxy.cpu="8Gi"', "/authProxy/cpu"),
        ("values-cpu", 'jobs.cpu="8Gi"', "/jobs/cpu"),
        ("values-cpu", 'authProxy.memory="512m"', "/authProxy/memory"),
        ("values-cpu", 'jobs.memory="512m"', "/jobs/memory"),
        ("values-cpu", 'plans.create.size="200m"', "/plans/create/size"),
        (
            "values-gpu-80",
            'affinity={"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[]}}',
            "nvidia.com/gpu.product",
        ),
    ],
)
def test_it_is_refused_with_the_reason(values: str, setting: str, message: str) -> None:
    done = template(values, setting)
    assert done.returncode != 0
    assert message in done.stderr, done.stderr


@pytest.mark.parametrize(
    "setting",
    [
        'updateStrategy={"maxSurge":1,"maxUnavailable":0}',
        'updateStrategy={"maxSurge":"10%","maxUnavailable":"0%"}',
        'updateStrategy={"maxSurge":0,"maxUnavailable":"100%"}',
        'tls={"enabled":true,"existingSecret":"s","clientAuth":true}',
        'server.restrictedProtocols=["inference","statistics"]',
        'resources.cpu="1500m"',
    ],
)
def test_what_works_is_not_refused(setting: str) -> None:
    done = template("values-cpu", setting)
    assert done.returncode == 0, done.stderr
