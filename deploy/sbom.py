"""Write the software bill of materials of the image's Python packages, in CycloneDX: `python -m deploy.sbom`.

It is made from the lock files, so it lists the packages that the build installs. Packages of the base image are in the
base image's own bill of materials.
"""

import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any

from export.atomic import write_atomically

LOCKS = (Path("deploy/requirements.lock"), Path("deploy/tensorrt.lock"))
TARGET = Path("build/sbom.cdx.json")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\]+)((?:\s*\\\n\s+--hash=sha256:[0-9a-f]{64})+)", re.MULTILINE)


def components(lock: str) -> list[dict[str, Any]]:
    """Return the packages in a lock file's text, each with the hashes of its accepted files."""
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "externalReferences": [
                {
                    "type": "distribution",
                    "url": f"https://pypi.org/project/{name}/{version}/",
                    "hashes": [
                        {"alg": "SHA-256", "content": digest} for digest in re.findall(r"sha256:([0-9a-f]{64})", hashes)
                    ],
                }
            ],
        }
        for name, version, hashes in _PIN.findall(lock)
    ]


def sbom(version: str) -> dict[str, Any]:
    """Build the whole document. It depends on the lock files and the version only."""
    found = [component for lock in LOCKS for component in components(lock.read_text(encoding="utf-8"))]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(found))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "wan-t2v", "version": version}},
        "components": found,
    }


def main() -> None:
    """Write the document to build/."""
    project = Path("pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'^version = "(.*)"$', project, re.MULTILINE)
    assert match is not None
    with write_atomically(TARGET) as partial:
        partial.write_text(json.dumps(sbom(match[1]), indent=2) + "\n", encoding="utf-8")
    print(f"wrote {TARGET}", file=sys.stderr)


if __name__ == "__main__":
    main()
