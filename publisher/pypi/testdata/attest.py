"""Signs a distribution as the index's own publishing action does, and verifies what other files and publishers make of it.

attest.py TRUSTED_ROOT SIGNING_CONFIG TOKEN REPOSITORY DIST OTHER: prints what was verified, one a line.
"""

import json
import sys
from pathlib import Path

from pypi_attestations import Attestation, Distribution, GitHubPublisher, VerificationError
from sigstore.models import ClientTrustConfig
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext
from sigstore.verify import Verifier

root, services, token, repository, dist, other = sys.argv[1:]
trusted = json.loads(Path(root).read_text())
for authority in trusted["certificateAuthorities"] + trusted["timestampAuthorities"]:
    authority["subject"].setdefault("commonName", "sigstore")  # this library alone wants one
trust = ClientTrustConfig.from_json(
    json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": trusted,
            "signingConfig": json.loads(Path(services).read_text()),
        }
    )
)
# Verifying asks for the public Sigstore; this one stands for it.
Verifier.production = classmethod(lambda cls, offline=False: cls(trusted_root=trust.trusted_root))

with SigningContext.from_trust_config(trust).signer(IdentityToken(token)) as signer:
    attestation = Attestation.sign(signer, Distribution.from_file(Path(dist)))

for name, publisher, file in (
    ("same", GitHubPublisher(repository=repository, workflow="release.yml", environment="pypi"), dist),
    ("another repository", GitHubPublisher(repository="evil/llcuda", workflow="release.yml"), dist),
    ("another workflow", GitHubPublisher(repository=repository, workflow="ci.yml"), dist),
    ("another file", GitHubPublisher(repository=repository, workflow="release.yml"), other),
):
    try:
        kind, predicate = attestation.verify(publisher, Distribution.from_file(Path(file)))
        print(f"{name}: {kind} {predicate}")
    except VerificationError as e:
        print(f"{name}: refused", file=sys.stdout)
        print(e, file=sys.stderr)
