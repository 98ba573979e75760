"""``ndcass jobs``: work in the background of a server, for its owners."""

import argparse
import os
import time
from collections.abc import Mapping
from typing import Any

from ndcass.cli.arguments import add_json, add_server
from ndcass.cli.client import Gateway, access_from
from ndcass.cli.failure import CommandFailed
from ndcass.cli.report import Progress, print_result

# A note of progress is made about once a second.
POLL_S = 0.5
_OPEN = ("PENDING", "STARTED")

JobFields = Mapping[str, Any]  # as the server's JSON has them


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    group = groups.add_parser("jobs", help="what a server does in the background")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="jobs of your channels, newest first")
    listing.add_argument("--open", action="store_true", help="only those that have not ended")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", help="one job")
    show.set_defaults(run=_show)
    cancel = actions.add_parser("cancel", help="cancel a job")
    cancel.set_defaults(run=_cancel)
    watch = actions.add_parser("watch", help="show how far a job is until it has ended")
    watch.add_argument("--quiet", action="store_true", help="no progress bar")
    watch.set_defaults(run=_watch)
    for parser in (show, cancel, watch):
        parser.add_argument("id", metavar="ID")
    for parser in (listing, show, cancel, watch):
        add_server(parser)
        add_json(parser)


def _gateway(args: argparse.Namespace) -> Gateway:
    return Gateway(access_from(args.url, os.environ))


def _list(args: argparse.Namespace) -> int:
    with _gateway(args) as gateway:
        jobs = [job for job in gateway.jobs() if not args.open or job["state"] in _OPEN]
    print_result(args, {"jobs": jobs}, "\n".join(map(_line, jobs)) or "no jobs")
    return 0


def _show(args: argparse.Namespace) -> int:
    with _gateway(args) as gateway:
        job = gateway.job(args.id)
    print_result(args, job, _statement(job))
    return 0


def _cancel(args: argparse.Namespace) -> int:
    with _gateway(args) as gateway:
        job = gateway.cancel_job(args.id)
    print_result(args, job, f"job {job['id']} is cancelled")
    return 0


def _watch(args: argparse.Namespace) -> int:
    """Follow a job; CommandFailed with its reason if it does not end well."""
    with _gateway(args) as gateway:
        job = gateway.job(args.id)
        shown, told = 0, ""
        with Progress(_name(job), None, quiet=args.quiet, unit=" units") as progress:
            while True:
                if job["state"] in _OPEN and job["error"] != told:
                    told = job["error"]
                    progress.say(f"{_name(job)} is put off: {told}")
                progress.of(job["total_units"])
                progress.add(job["done_units"] - shown)
                shown = job["done_units"]
                if job["state"] not in _OPEN:
                    break
                time.sleep(POLL_S)
                job = gateway.job(args.id)
    if job["state"] != "SUCCESS":
        raise CommandFailed(f"{_name(job)}: {job['error'] or 'it was cancelled'}")
    print_result(args, job, _statement(job))
    return 0


def _name(job: JobFields) -> str:
    where = f"{job['project']}/{job['channel']}" if job["channel"] else "a deleted channel"
    return f"{job['kind']} of {where}"


def _line(job: JobFields) -> str:
    done = f"{job['done_units']}/{job['total_units']}" if job["total_units"] else "-"
    return "\t".join((job["id"], job["created"], job["state"], done, _name(job), job["error"]))


def _statement(job: JobFields) -> str:
    lines = [
        f"job {job['id']}: {_name(job)}",
        f"  state:    {job['state']}",
        f"  done:     {job['done_units']} of {job['total_units'] or 'an unknown number of'} units",
        f"  created:  {job['created']}",
    ]
    if job["error"]:
        what = "put off:" if job["state"] in _OPEN else "error:  "
        lines.append(f"  {what}  {job['error']}")
    return "\n".join(lines)
