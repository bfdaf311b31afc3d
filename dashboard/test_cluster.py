"""The files for a cluster: browsers use HTTPS only, and nothing is installed without a hash."""

import re
import runpy
import unittest
from pathlib import Path

FOLDER = Path(__file__).parent
CLUSTER = FOLDER / "cluster"


class Cluster(unittest.TestCase):
    def test_browsers_use_https_only_with_the_policy_of_a_local_run(self) -> None:
        cluster = runpy.run_path(str(CLUSTER / "superset_config.py"))
        local = runpy.run_path(str(FOLDER / "superset_config.py"))
        talisman = cluster["TALISMAN_CONFIG"]
        for name in ("force_https", "session_cookie_secure", "strict_transport_security"):
            self.assertIs(talisman[name], True, name)
        for name in ("SESSION_COOKIE_SECURE", "SESSION_COOKIE_HTTPONLY", "ENABLE_PROXY_FIX", "TALISMAN_ENABLED"):
            self.assertIs(cluster[name], True, name)
        for name in ("content_security_policy", "content_security_policy_nonce_in"):
            self.assertEqual(talisman[name], local["TALISMAN_CONFIG"][name], name)

    def test_every_package_has_the_version_of_the_tested_run_and_hashes(self) -> None:
        tested = (FOLDER / "requirements.txt").read_text()
        requirements = (CLUSTER / "requirements.txt").read_text().replace("\\\n", " ")
        packages = [line for line in requirements.splitlines() if line and not line.startswith("#")]
        self.assertTrue(packages)
        for package in packages:
            requirement, *hashes = package.split()
            self.assertIn(f"\n{requirement}\n", tested)
            self.assertTrue(hashes, requirement)
            for digest in hashes:
                self.assertRegex(digest, r"^--hash=sha256:[0-9a-f]{64}$")
        [version] = re.findall(r"^apache-superset==(\S+)$", tested, re.MULTILINE)
        for file in ("Dockerfile", "superset-values.yaml"):
            self.assertIn(version, (CLUSTER / file).read_text(), file)

    def test_no_pod_installs_a_package_and_no_connection_is_unverified(self) -> None:
        values = (CLUSTER / "superset-values.yaml").read_text()
        self.assertNotRegex(values, r"\bpip\b|apt-get|curl|wget")
        self.assertIn("--require-hashes", (CLUSTER / "Dockerfile").read_text())
        self.assertIn("sslmode=verify-full", (FOLDER / "guests/databases/streamstage.yaml").read_text())


if __name__ == "__main__":
    unittest.main()
