"""The ways from outside to the pods: a gateway and an ingress."""

from tests.deploy.rendering import objects

CALLERS_METHODS = {"ModelInfer", "ModelStreamInfer", "ServerLive", "ServerReady", "ModelReady", "ModelStatistics"}


def test_routes_let_through_what_callers_ask_and_nothing_of_the_operators() -> None:
    (route,) = objects("ci/everything-values", "GRPCRoute")
    methods = [match["method"] for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert {method["service"] for method in methods} == {"inference.GRPCInferenceService"}
    assert {method["method"] for method in methods} == CALLERS_METHODS
    (ingress,) = objects("ci/everything-values", "Ingress")
    paths = [path for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
    assert {path["path"] for path in paths} == {f"/inference.GRPCInferenceService/{name}" for name in CALLERS_METHODS}
    assert {path["pathType"] for path in paths} == {"Exact"}


def test_an_ingress_waits_for_a_whole_video() -> None:
    (ingress,) = objects("ci/everything-values", "Ingress")
    annotations = ingress["metadata"]["annotations"]
    assert int(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"]) >= 3600
    assert annotations["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPCS"
    assert annotations["nginx.ingress.kubernetes.io/proxy-next-upstream"] == "off"


def test_a_gateway_waits_for_a_whole_video_and_speaks_tls_to_the_pods_that_do() -> None:
    (route,) = objects("ci/everything-values", "GRPCRoute")
    (header,) = route["spec"]["rules"][0]["filters"]
    assert header["requestHeaderModifier"] == {"remove": ["triton_grpc_error"]}
    (policy,) = objects("ci/everything-values", "BackendTrafficPolicy")
    assert policy["spec"]["targetRefs"] == [
        {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "name": route["metadata"]["name"]}
    ]
    limits = policy["spec"]["timeout"]["http"]
    assert limits == {"requestTimeout": "0s", "maxStreamDuration": "0s", "streamIdleTimeout": "3600s"}
    (policy,) = objects("ci/everything-values", "BackendTLSPolicy")
    (service,) = objects("ci/everything-values", "Service")
    (target,) = policy["spec"]["targetRefs"]
    assert target["name"] == service["metadata"]["name"]
    assert target["sectionName"] in [port["name"] for port in service["spec"]["ports"]]
    assert policy["spec"]["validation"]["hostname"] == "video.example"
    plain = 'gateway={"enabled":true,"parentRefs":[{"name":"public"}]}'
    assert objects("values-cpu", "GRPCRoute", plain)
    assert not objects("values-cpu", "BackendTLSPolicy", plain)
    assert not objects("values-cpu", "BackendTrafficPolicy", plain)
