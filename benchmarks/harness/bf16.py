"""Whether OpenVINO can compute in BF16 on this machine."""


def bf16_is_missing() -> str:
    """Why OpenVINO cannot compute in BF16 here; empty if it can."""
    try:
        import openvino
    except ModuleNotFoundError:
        return "the package openvino is not installed"
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "" if "BF16" in capabilities else f"this CPU has {', '.join(sorted(capabilities))}"
