"""A loopback server that speaks the part of W&B's API that its client, its core and its sweep agent use.

Runs are kept in memory, files are accepted and dropped, nothing leaves 127.0.0.1. Sweeps are grids, handed out one
run at a time. As W&B does, a run that was marked as preempting is handed out again, under the same id, when it exits
with an error or when nothing has been heard of it for `patience_s`.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY = "me"
API_KEY = "loopback" * 5
"""Belongs to nobody; this server accepts every key."""


@dataclass
class Run:
    """What the server knows about a run."""

    name: str
    """W&B's own id."""
    display_name: str | None = None
    sweep: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    """Setting -> its value; W&B's own entry `_wandb` included."""
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    preempting: bool = False
    exit_code: int | None = None
    starts: int = 0
    """How many processes have begun to work on it."""
    heard: float = field(default_factory=time.monotonic)


@dataclass
class Sweep:
    """A registered grid, and the runs that were handed out."""

    name: str
    config: dict[str, Any]
    waiting: Iterator[dict[str, Any]]
    taken: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Run -> the settings of its cell."""
    patience_s: float = 300.0


def is_dead(run: Run, patience_s: float) -> bool:
    silent = run.exit_code is None and time.monotonic() - run.heard > patience_s
    return run.preempting and (silent or bool(run.exit_code))


class WandbServer(ThreadingHTTPServer):
    """Use as `with serving() as server`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.agents: dict[str, str] = {}
        self.unanswered: list[str] = []
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a client that hangs up."""

    def answer(self, operation: str, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """The `data` of a GraphQL operation; None if this server does not know it."""
        method = getattr(self, "on" + re.sub("(?=[A-Z])", "_", operation).lower(), None)
        if method is None:
            self.unanswered.append(operation)
            return None
        with self.lock:
            return method(given)

    def on_viewer(self, given: Mapping[str, Any]) -> dict[str, Any]:
        user = {"id": "u1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": user}

    def on_get_default_entity(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return self.on_viewer(given)

    def on_server_features_query(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_organization_core_weave_organization_i_d(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def on_upsert_sweep(self, given: Mapping[str, Any]) -> dict[str, Any]:
        name, config = f"sweep{len(self.sweeps)}", yaml.safe_load(given["config"])
        values = {key: entry.get("values", [entry.get("value")]) for key, entry in config["parameters"].items()}
        cells = (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))
        self.sweeps[name] = Sweep(name, config, cells)
        sweep = {"name": name, "project": self.project(given["projectName"])}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def on_sweep_with_runs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps.get(given["sweep"])
        if sweep is None:
            return {"project": {"sweep": None}}
        config = yaml.safe_dump(sweep.config, sort_keys=False)
        known = {"id": sweep.name, "name": sweep.name, "method": "grid", "state": "RUNNING", "config": config}
        return {"project": {"sweep": {**known, "runs": {"edges": []}}}}

    def on_create_agent(self, given: Mapping[str, Any]) -> dict[str, Any]:
        name = f"agent{len(self.agents)}"
        self.agents[name] = given["sweep"]
        return {"createAgent": {"agent": {"id": name}}}

    def on_heartbeat(self, given: Mapping[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps[self.agents[given["id"]]]
        busy = json.loads(given["runState"] or "{}")
        commands = [] if busy else [self.next_command(sweep)]
        return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}

    def next_command(self, sweep: Sweep) -> dict[str, Any]:
        """The command for an idle agent: a run again, a new one, or exit."""
        name = next((name for name in sweep.taken if is_dead(self.runs[name], sweep.patience_s)), None)
        if name is None:
            cell = next(sweep.waiting, None)
            if cell is None:
                return {"type": "exit"}
            name = f"{sweep.name}run{len(sweep.taken)}"
            sweep.taken[name] = cell
            self.runs[name] = Run(name, sweep=sweep.name)
        self.runs[name].heard = time.monotonic()
        self.runs[name].exit_code = None
        args = {key: {"value": value} for key, value in sweep.taken[name].items()}
        return {"type": "run", "run_id": name, "program": sweep.config["program"], "args": args}

    def on_run_resume_status(self, given: Mapping[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        bucket = None
        if run is not None and run.starts:
            bucket = {
                **self.bucket(run),
                "summaryMetrics": json.dumps(run.summary),
                "logLineCount": 0,
                "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
                "eventsTail": "[]",
                "tags": run.tags,
                "notes": None,
                "wandbConfig": "{}",
            }
        return {"model": {**self.project(given["project"]), "bucket": bucket}}

    def on_upsert_bucket(self, given: Mapping[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(given["name"], Run(given["name"]))
        new = given.get("host") is not None  # a process begins; later calls only change the config
        inserted, run.starts = run.starts == 0, run.starts + new
        run.heard = time.monotonic()
        for name, key in (("displayName", "display_name"), ("groupName", "group"), ("jobType", "job_type")):
            if given.get(name) is not None:
                setattr(run, key, given[name])
        run.tags = given.get("tags") or run.tags
        run.config |= {key: entry["value"] for key, entry in json.loads(given.get("config") or "{}").items()}
        run.summary |= json.loads(given.get("summaryMetrics") or "{}")
        return {"upsertBucket": {"bucket": {**self.bucket(run), "project": self.project("mnet")}, "inserted": inserted}}

    def on_runs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The runs that the public API asks for, a page at a time."""
        asked, first = json.loads(given["filters"]), int(given["cursor"] or 0)
        known = [(run, self.listed(run)) for run in list(self.runs.values())]
        nodes = [node for run, node in known if asked.items() <= {**node, "sweep": run.sweep}.items()]
        end = first + given["perPage"]
        edges = [{"node": node, "cursor": str(end)} for node in nodes[first:end]]
        page = {"endCursor": str(end), "hasNextPage": end < len(nodes)}
        found = {"edges": edges, "pageInfo": page}
        return {"project": {"internalId": "1", "runCount": len(nodes), "readOnly": False, "runs": found}}

    def listed(self, run: Run) -> dict[str, Any]:
        state = "running" if run.exit_code is None else "failed" if run.exit_code else "finished"
        then = "2026-01-01T00:00:00Z"
        metrics = {"summaryMetrics": json.dumps(run.summary), "systemMetrics": "{}", "historyKeys": None}
        answer = {"tags": run.tags, "group": run.group, "jobType": run.job_type, "state": state}
        return {**self.bucket(run), **metrics, **answer, "projectId": "1", "createdAt": then, "heartbeatAt": then}

    def on_create_run_files(self, given: Mapping[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/dropped"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def bucket(self, run: Run) -> dict[str, Any]:
        config = json.dumps({key: {"value": value} for key, value in run.config.items()})
        known = {"id": run.name, "name": run.name, "displayName": run.display_name, "description": None}
        return {**known, "config": config, "sweepName": run.sweep, "historyLineCount": len(run.history)}

    def project(self, name: str | None) -> dict[str, Any]:
        return {"id": "p1", "name": name or "mnet", "entity": {"id": "e1", "name": ENTITY}}

    def stream(self, name: str, content: Mapping[str, Any]) -> None:
        """The running record of a run: rows of its history, its summary, and how it ended."""
        with self.lock:
            run = self.runs[name]
            run.heard = time.monotonic()
            run.preempting |= bool(content.get("preempting"))
            for file, chunk in (content.get("files") or {}).items():
                rows = [json.loads(line) for line in chunk["content"]] if "json" in file else []
                if file == "wandb-history.jsonl":
                    run.history[chunk["offset"] :] = rows
                elif file == "wandb-summary.json" and rows:
                    run.summary = rows[-1]
            if content.get("complete"):
                run.exit_code = content.get("exitcode")


class Handler(BaseHTTPRequestHandler):
    """GraphQL, the file stream, and uploads."""

    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/graphql":
            query = json.loads(body)
            named = re.search(r"(?:query|mutation)\s+(\w+)", query["query"])
            operation = named[1] if named else ""
            data = self.server.answer(operation, query.get("variables") or {})
            if data is None:
                self.reply({"errors": [{"message": f"unknown operation {operation}"}]}, status=400)
            else:
                self.reply({"data": data})
        elif stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.server.stream(stream[1], json.loads(body))
            self.reply({})
        else:
            self.reply({})

    def do_PUT(self) -> None:
        self.body()
        self.reply({})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def reply(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def serving() -> Iterator[WandbServer]:
    """A server in a thread of this process, until the end of the block."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
