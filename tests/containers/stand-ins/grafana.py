"""Stands where Grafana would: healthy while it, as Grafana's user, can read what Grafana is given and ask its source.

It draws nothing. What it proves is compose.yaml's: mounts, rights, names and ports of Grafana's container.
"""

from __future__ import annotations

import json
import re
import urllib.request
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

CONFIGURATION, DATA = Path("/etc/grafana"), Path("/var/lib/grafana")


def look() -> str:
    """Read what is mounted, write to the volume, ask the data source; raises where any of it fails."""
    (DATA / "grafana.db").touch()
    (source,) = (CONFIGURATION / "provisioning/datasources").glob("*.y*ml")
    (provider,) = (CONFIGURATION / "provisioning/dashboards").glob("*.y*ml")
    folder = re.search(r"^\s*path: *(\S+)", provider.read_text(), re.MULTILINE)
    url = re.search(r"^\s*url: *(\S+)", source.read_text(), re.MULTILINE)
    assert folder, provider
    assert url, source
    titles = [json.loads(file.read_text())["title"] for file in Path(folder[1]).glob("*.json")]
    assert titles, folder[1]
    with urllib.request.urlopen(f"{url[1]}/api/v1/query?query=1", timeout=4) as answer:
        assert json.load(answer)["status"] == "success"
    return json.dumps({"url": url[1], "dashboards": titles})


class Handler(BaseHTTPRequestHandler):
    """Answers /api/health as Grafana does."""

    def do_GET(self) -> None:
        """Look again at each question."""
        try:
            status, text = HTTPStatus.OK, look()
        except Exception as error:  # whatever it is, the container's log has to say it
            status, text = HTTPStatus.SERVICE_UNAVAILABLE, repr(error)
        self.log_message("%s", text)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    HTTPServer(("", 3000), Handler).serve_forever()
