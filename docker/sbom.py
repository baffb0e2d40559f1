"""Add the bundled models to a CycloneDX list of Python packages, and hold the whole to what it should say."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

MODELS = Path(__file__).resolve().parents[1] / "service/armoire/models"


def model(manifest: Path) -> Component:
    """Describe the bundle of a manifest: what the manifest says of it, and its files with their SHA-256."""
    said = json.loads(manifest.read_text())
    name, version = said["name"], said["version"]
    files = [
        Component(
            name=file,
            type=ComponentType.FILE,
            bom_ref=f"{name}@{version}/{file}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=spec["sha256"])],
        )
        for file, spec in said["files"].items()
    ]
    return Component(
        name=name,
        version=version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"{name}@{version}",
        purl=PackageURL("generic", "armoire", name, version),
        description=f"variational autoencoder, trained on {said['training']['data']}",
        licenses=[LicenseFactory().make_from_string(said["licence"])],
        components=files,
    )


def main() -> int:
    """Read the packages, add the models, check, write; exit status 1 where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, help="what cyclonedx-py wrote of an environment")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    bom = Bom.from_json(json.loads(arguments.packages.read_text()))
    models = [model(manifest) for manifest in sorted(MODELS.glob("*/*/manifest.json"))]
    bom.components.update(models)
    bom.register_dependency(bom.metadata.component, models)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    faults = [
        f"{each.name} has no version, no purl or no licence"
        for each in bom.components
        if not (each.version and each.purl and each.licenses)
    ]
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        faults.append(f"CycloneDX's schema: {wrong}")
    for fault in faults:
        print(f"{arguments.out} is not written: {fault}", file=sys.stderr)
    if faults:
        return 1
    arguments.out.write_text(text)
    print(f"{arguments.out}: {len(bom.components)} components, {len(models)} of them models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
