"""Who may reach the pods: the NetworkPolicies' peers, and a word where they cut off what the values turn on."""

import json

import pytest

from tests.deploy.rendering import ALL_VALUES, notes, objects, pod, template

JOBS = "ci/jobs-values"
NOBODY = ("networkPolicy.clients=[]", "networkPolicy.monitoring=[]")
NOTE = "NetworkPolicy:"


def test_the_network_policy_lets_callers_and_monitoring_in_and_nothing_out() -> None:
    (policy,) = objects("values-cpu", "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and policy["spec"]["egress"] == []
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["spec"]["ingress"]]
    assert ports == [[8001, "http"], ["metrics"]]


def named_ports(values: str) -> set[str]:
    """Names by which Services and NetworkPolicies call ports of pods."""
    services = [port["targetPort"] for found in objects(values, "Service") for port in found["spec"]["ports"]]
    policies = [found["spec"] for found in objects(values, "NetworkPolicy")]
    rules = [rule for spec in policies for rule in (*spec["ingress"], *spec["egress"])]
    ports = [*services, *(entry["port"] for rule in rules for entry in rule["ports"])]
    return {port for port in ports if isinstance(port, str)}


@pytest.mark.parametrize("values", ALL_VALUES)
def test_a_port_of_a_sidecar_is_called_by_its_number(values: str) -> None:
    """Kubernetes resolves such a name since 1.33 alone, and some network plugins never do."""
    sidecars = [found for found in pod(values)["initContainers"] if found.get("restartPolicy") == "Always"]
    assert bool(sidecars) == (values in ("ci/everything-values", JOBS))
    assert not named_ports(values) & {port["name"] for sidecar in sidecars for port in sidecar["ports"]}


def test_the_proxys_port_is_the_one_that_callers_reach() -> None:
    proxy = 'authProxy={"enabled":true,"image":"proxy","port":9443}'
    (service,) = [found for found in objects(JOBS, "Service", proxy) if found["metadata"]["name"] == "wan-wan-t2v"]
    assert service["spec"]["ports"][0]["targetPort"] == 9443
    to_the_server = rules("wan-wan-t2v", "ingress", proxy)[0], rules("wan-wan-t2v-jobs", "egress", proxy)[0]
    assert [rule["ports"] for rule in to_the_server] == [[{"protocol": "TCP", "port": 9443}]] * 2


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
    assert to_the_server["ports"] == [{"protocol": "TCP", "port": 8001}] and to_the_server["from"]


def test_peers_of_one_list_are_let_in_without_the_other() -> None:
    for empty in ("jobs.clients=[]", "networkPolicy.monitoring=[]"):
        to_the_front, _ = rules("wan-wan-t2v-jobs", "ingress", empty)
        assert to_the_front["ports"] == [{"protocol": "TCP", "port": 8080}]
        assert isinstance(to_the_front["from"], list) and len(to_the_front["from"]) == 1


@pytest.mark.parametrize("empty", ["jobs.egress=[]", "jobs.egress=null"])
def test_without_egress_of_its_own_the_front_reaches_servers_alone(empty: str) -> None:
    (to_servers,) = rules("wan-wan-t2v-jobs", "egress", empty)
    assert to_servers["to"] and to_servers["ports"] == [{"protocol": "TCP", "port": 8001}]


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
    for values in ALL_VALUES:
        if values != "ci/everything-values":  # its gateway is in another namespace
            assert NOTE not in notes(values), values


@pytest.mark.parametrize("other", ["jobs.route.enabled=false", "jobs.ingress.enabled=false"])
def test_a_front_whose_policy_cuts_off_its_route_is_told_of(other: str) -> None:
    assert "jobs.clients" in notes(JOBS, other, 'jobs.clients=[{"podSelector":{}}]')


COLLECTOR = "http://collector.observability:4318/v1/traces"
DNS = {"ports": [{"protocol": "UDP", "port": 53}]}
OTHER_PORTS = [
    {"port": 443},
    {"port": 4319, "endPort": 5000},
    {"protocol": "UDP", "port": 4318},
    {"protocol": "TCP", "port": 4000, "endPort": 4317},
]
ITS_PORT = [{"port": 4318}, {"port": 4000, "endPort": 5000}, {"port": "otlp"}, {"protocol": "TCP"}, {}]


def traces(url: str = COLLECTOR, *, to: str = "monitoring.tracing.url") -> str:
    return f'{to}="{url}"'


def egress(*rules: dict[str, object], of: str = "networkPolicy") -> str:
    return f"{of}.egress={json.dumps(rules)}"


def traces_note(values: str, *settings: str) -> str:
    (line,) = [line for line in notes(values, *settings).splitlines() if "no rule lets the traces" in line] or [""]
    return line


@pytest.mark.parametrize(
    "settings",
    [
        (),
        (egress(DNS),),
        *((egress(DNS, {"ports": [entry]}),) for entry in OTHER_PORTS),
        ("networkPolicy.egress=null",),
    ],
)
def test_traces_that_cannot_leave_a_server_are_told_of(settings: tuple[str, ...]) -> None:
    note = traces_note("values-cpu", traces(), *settings)
    assert "monitoring.tracing.url" in note and "TCP port 4318" in note and "networkPolicy.egress" in note


@pytest.mark.parametrize(
    "rules",
    [*((DNS, {"ports": [entry]}) for entry in ITS_PORT), ({"to": [{"podSelector": {}}]},), ({"ports": []},), ({},)],
)
def test_traces_that_can_leave_are_not(rules: tuple[dict[str, object], ...]) -> None:
    """A rule without ports lets all of them out, and what a port's name means is the collector's matter."""
    assert not traces_note("values-cpu", traces(), egress(*rules))


@pytest.mark.parametrize(
    ("url", "needs"),
    [
        ("http://collector/v1/traces", "TCP port 80 and DNS (UDP port 53)."),
        ("https://collector", "TCP port 443 and DNS (UDP port 53)."),
        ("https://user:1@collector:4318?a=:9", "TCP port 4318 and DNS (UDP port 53)."),
        ("http://10.0.0.1:4318/v1/traces", "TCP port 4318."),
        ("http://[fd00::1]:4318/v1/traces", "TCP port 4318."),
        ("http://[fd00::1]/v1/traces", "TCP port 80."),
        ("http://$(HOST_IP):4318/v1/traces", "TCP port 4318."),
    ],
)
def test_the_note_names_what_the_url_needs(url: str, needs: str) -> None:
    assert f"which need {needs}" in traces_note("values-cpu", traces(url))


def test_a_name_needs_dns_and_an_address_does_not() -> None:
    port = {"ports": [{"port": 4318}]}
    assert "need DNS (UDP port 53)." in traces_note("values-cpu", traces(), egress(port))
    assert not traces_note("values-cpu", traces("http://10.0.0.1:4318"), egress(port))


def test_the_default_egress_of_jobs_lets_no_traces_out() -> None:
    """It counts for the servers' pods too, whose workers are in them, and has DNS and HTTPS but no collector."""
    servers, fronts = (traces(to=to) for to in ("monitoring.tracing.url", "jobs.tracesUrl"))
    none = ("networkPolicy.egress=[]", 'jobs.tracesUrl=""')
    assert "need TCP port 4318. Add it to networkPolicy.egress" in traces_note(JOBS, *none, servers)
    assert "need TCP port 4318. Add it to jobs.egress" in traces_note(JOBS, *none, fronts)
    for of in ("networkPolicy", "jobs"):
        rules = egress(DNS, {"ports": [{"port": 4318}]}, of=of)
        assert not traces_note(JOBS, none[0], fronts, servers, rules), of
    assert not traces_note(JOBS, *none, traces("https://collector.example/v1/traces"))


def test_the_egress_of_jobs_that_are_off_lets_nothing_out() -> None:
    everything = egress({}, of="jobs")
    assert traces_note("values-cpu", traces(), everything)
    assert not traces_note("values-cpu", traces(to="jobs.tracesUrl"))
    assert not traces_note("values-cpu", traces(), "networkPolicy.enabled=false")
