"""Who may reach the pods: the NetworkPolicies' peers, and a word where they cut off what the values turn on."""

import pytest

from tests.deploy.rendering import notes, objects, template

JOBS = "ci/jobs-values"
NOBODY = ("networkPolicy.clients=[]", "networkPolicy.monitoring=[]")
NOTE = "NetworkPolicy:"


def test_the_network_policy_lets_callers_and_monitoring_in_and_nothing_out() -> None:
    (policy,) = objects("values-cpu", "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and policy["spec"]["egress"] == []
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["spec"]["ingress"]]
    assert ports == [["grpc", "http"], ["metrics"]]


def rules(name: str, direction: str, *settings: str) -> list[dict[str, object]]:
    (policy,) = [entry for entry in objects(JOBS, "NetworkPolicy", *settings) if entry["metadata"]["name"] == name]
    return list(policy["spec"][direction])


@pytest.mark.parametrize(
    "empty",
    [
        ("jobs.clients=[]", *NOBODY),
        ("jobs.clients=null", "networkPolicy.clients=null", "networkPolicy.monitoring=null"),
    ],
)
def test_no_peers_are_nobody_and_not_everybody(empty: tuple[str, ...]) -> None:
    """For Kubernetes a rule without `from`, or with an empty one, lets every source in."""
    assert rules("wan-wan-t2v", "ingress", *empty) == []
    (to_the_server,) = rules("wan-wan-t2v-jobs", "ingress", *empty)
    assert to_the_server["ports"] == [{"protocol": "TCP", "port": "grpc"}] and to_the_server["from"]


def test_peers_of_one_list_are_let_in_without_the_other() -> None:
    for empty in ("jobs.clients=[]", "networkPolicy.monitoring=[]"):
        to_the_front, _ = rules("wan-wan-t2v-jobs", "ingress", empty)
        assert to_the_front["ports"] == [{"protocol": "TCP", "port": "jobs"}]
        assert isinstance(to_the_front["from"], list) and len(to_the_front["from"]) == 1


@pytest.mark.parametrize("empty", ["jobs.egress=[]", "jobs.egress=null"])
def test_without_egress_of_its_own_the_front_reaches_servers_alone(empty: str) -> None:
    (to_servers,) = rules("wan-wan-t2v-jobs", "egress", empty)
    assert to_servers["to"] and to_servers["ports"] == [{"protocol": "TCP", "port": "grpc"}]


def test_an_empty_list_of_egress_lets_nothing_out() -> None:
    for empty in ("networkPolicy.egress=[]", "networkPolicy.egress=null"):
        (policy,) = objects("values-cpu", "NetworkPolicy", empty)
        assert policy["spec"]["egress"] == []


@pytest.mark.parametrize("peers", ["networkPolicy.clients", "networkPolicy.monitoring", "jobs.clients"])
def test_an_empty_peer_is_refused(peers: str) -> None:
    done = template(JOBS, f"{peers}=[{{}}]")
    assert done.returncode != 0 and f"/{peers.replace('.', '/')}/0" in done.stderr, done.stderr


INGRESS = 'ingress={"enabled":true,"host":"video.example"}'
GATEWAY = 'gateway={"enabled":true,"parentRefs":[{"name":"public"}]}'


@pytest.mark.parametrize("turned_on", [INGRESS, GATEWAY, 'service.type="LoadBalancer"', 'service.type="NodePort"'])
def test_callers_from_elsewhere_whom_the_policy_cuts_off_are_told_of(turned_on: str) -> None:
    """A note and no refusal: a controller in the release's own namespace is let in by the default."""
    assert "namespace video may call" in notes("values-cpu", turned_on)
    assert "networkPolicy.clients" in notes("values-cpu", turned_on)
    elsewhere = [
        'networkPolicy.clients=[{"podSelector":{}},{"namespaceSelector":{"matchLabels":{"a":"b"}}}]',
        'networkPolicy.clients=[{"ipBlock":{"cidr":"10.0.0.0/8"}}]',
        "networkPolicy.enabled=false",
    ]
    for setting in elsewhere:
        assert NOTE not in notes("values-cpu", turned_on, setting), setting


def test_nobody_is_told_of_a_policy_that_cuts_nothing_off() -> None:
    for values in ("values-cpu", "ci/hpa-values", JOBS):
        assert NOTE not in notes(values), values


@pytest.mark.parametrize("other", ["jobs.route.enabled=false", "jobs.ingress.enabled=false"])
def test_a_front_whose_policy_cuts_off_its_route_is_told_of(other: str) -> None:
    assert "jobs.clients" in notes(JOBS, other, 'jobs.clients=[{"podSelector":{}}]')


def test_traces_that_cannot_leave_are_told_of() -> None:
    url = 'monitoring.tracing.url="http://collector:4318/v1/traces"'
    assert "networkPolicy.egress" in notes("values-cpu", url)
    egress = 'networkPolicy.egress=[{"ports":[{"protocol":"TCP","port":4318}]}]'
    assert NOTE not in notes("values-cpu", url, egress)
    assert NOTE not in notes(JOBS, url)  # jobs.egress counts for the servers' pods too
