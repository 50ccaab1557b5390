"""The command line: the parser, and what every command has in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from zaqar_notify import __version__, errors

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

DESCRIPTION = """\
Publish/subscribe notifications: clients post messages to queues over a REST
API that speaks Zaqar v2; every message goes to every subscriber of its queue."""

EPILOG = """\
Options come from the command line, the environment (OS_<GROUP>__<OPTION>, for
example OS_API__PORT=8890), configuration files and defaults, in this order;
'zaqar-notify config' shows where each value came from.

start here:
  zaqar-notify serve     API and worker on 127.0.0.1:8888, data in ./var
  zaqar-notify listen    in a second terminal: a receiver that says how to
                         subscribe it
"""

KEYS = """\
The keys are [encryption] keys and [signed_url] secret_key. Where the data
directory has a secrets.conf, which 'serve' makes, they are read from there;
what a --config-file or the environment says wins."""

SERVE = """\
Runs the API and a worker, each as a process of its own, on an SQLite database
in the data directory. The first start makes the directory, the database and
the keys (secrets.conf, mode 0600). A process that dies is started again.
Ctrl-C stops both gracefully; the next start finds everything again.

Without a configuration file this is the development form: webhooks to
127.0.0.0/8 and ::1 are allowed. With one, only what [guard] allowed_networks
names is."""

SERVE_EXAMPLES = """\
examples:
  zaqar-notify serve
  zaqar-notify serve --port 8890 --data /tmp/notify
  zaqar-notify serve --config-file /etc/zaqar-notify/zaqar-notify.conf
"""

API = f"""\
Runs the API: gunicorn, with [api] workers processes of [api] threads threads.
Needs keys, and a database that 'zaqar-notify db upgrade' has made. SIGTERM
stops it after running requests.

{KEYS}"""

WORKER = f"""\
Runs a worker, which delivers. Any number of them may work on one database.
Needs keys. SIGTERM stops it: it waits [worker] stop_timeout for what is in
flight, gives the rest back and leaves.

{KEYS}"""

API_EXAMPLES = """\
example:
  zaqar-notify api --config-file /etc/zaqar-notify/zaqar-notify.conf \\
                   --config-file /etc/zaqar-notify/secrets.conf
"""

WORKER_EXAMPLES = """\
example:
  zaqar-notify worker --config-file /etc/zaqar-notify/zaqar-notify.conf \\
                      --config-file /etc/zaqar-notify/secrets.conf
"""

NOTIFIERS = """\
Lists the URI schemes that subscribers can have, with the class that serves
each and the package that it comes from."""

NOTIFIERS_EXAMPLES = """\
example:
  zaqar-notify notifiers --json
"""

CONFIG = """\
Shows each effective option, its value, and where the value came from: command
line, environment variable, file or default. Secrets are masked."""

CONFIG_EXAMPLES = """\
examples:
  zaqar-notify config
  OS_WORKER__LEASE=60 zaqar-notify config --config-file my.conf --json
"""

DB = """\
Brings the database to the schema of this version. Keeps all data; does nothing
when there is nothing to do."""

DB_EXAMPLES = """\
example:
  zaqar-notify db upgrade --config-file /etc/zaqar-notify/zaqar-notify.conf \\
                          --config-file /etc/zaqar-notify/secrets.conf
"""

DB_COPY = """\
Copies all that the configured storage has into another one, of the same or of
another engine: queues, messages, claims, subscriptions, what waits to be
delivered, and the log. Stop the API and the workers first; start them again with
the new [storage] connection.

Makes the schema at the destination, which has to be empty. In the end the number
of records of each kind is compared; the exit status is 1 when one differs. Keys
([encryption] keys, [signed_url] secret_key) stay in the configuration."""

DB_COPY_EXAMPLES = """\
examples:
  zaqar-notify db copy --to-config-file new.conf
  zaqar-notify db copy --data /srv/notify --to postgresql:///notify
"""

KEY = """\
Makes, lists and revokes API keys, which callers need where [auth] strategy is
apikey. Works on the configured database while the service runs.

A key belongs to one project and has roles:
  read       look at queues, messages, claims, subscriptions and deliveries
  publish    make queues and post messages; with read: claim, pop and delete
             messages too
  subscribe  make, change and delete subscriptions
  admin      all of these, delete and purge queues, make pre-signed URLs, and
             see the health of the service"""

KEY_CREATE = f"""\
{KEY}

The key is printed once, and stored only as a hash: keep it."""

KEY_LIST = """\
Lists the keys, oldest first, with those that were revoked. The keys themselves
cannot be shown again."""

KEY_REVOKE = """\
Revokes a key. The API's processes take notice within [auth] key_cache seconds
(5). ID is what stands between zn_ and the next underscore in the key."""

KEY_CREATE_EXAMPLES = """\
examples:
  zaqar-notify key create --project shop --roles read,publish --name backend
  KEY=$(zaqar-notify key create --project shop --roles admin)
  curl -H "Authorization: Bearer $KEY" -H "Client-ID: $(uuidgen)" \\
       http://127.0.0.1:8888/v2/queues
"""

KEY_LIST_EXAMPLES = """\
examples:
  zaqar-notify key list
  zaqar-notify key list --project shop --json
"""

KEY_REVOKE_EXAMPLES = """\
example:
  zaqar-notify key revoke 5f0c9d1e2a3b4c5d
"""

KEY_EXAMPLES = (
    KEY_CREATE_EXAMPLES
    + """\
  zaqar-notify key list
  zaqar-notify key revoke 5f0c9d1e2a3b4c5d
"""
)

JOB = """\
Long work (the parts of a huge fan-out, replays) is done in jobs, each held by one
worker at a time. One that fails is kept, with its error, until somebody retries
or drops it, or [delivery_log] retention is over. Works on the configured database
while the service runs.

States: waiting (nobody holds it), running and failed."""

JOB_LIST = """\
Lists the jobs that are not done, the oldest first."""

JOB_SHOW = """\
Shows one job as JSON, with its details: what it is about and how far it is."""

JOB_RETRY = """\
Lets jobs that have failed go on where they were. A worker takes them up within a
second or so."""

JOB_DROP = """\
Gives a job up that waits or has failed. Of a part of a fan-out, those subscribers
that it has not come to never get the message, and nothing is logged for them.
One that a worker is at work on cannot be dropped."""

JOB_LIST_EXAMPLES = """\
examples:
  zaqar-notify job list
  zaqar-notify job list --failed --json
"""

JOB_SHOW_EXAMPLES = """\
example:
  zaqar-notify job show 19a2b3c4d5e6f708
"""

JOB_RETRY_EXAMPLES = """\
examples:
  zaqar-notify job retry 19a2b3c4d5e6f708
  zaqar-notify job retry --all
"""

JOB_DROP_EXAMPLES = """\
example:
  zaqar-notify job drop 19a2b3c4d5e6f708
"""

CLUSTER = """\
Shows the workers with what each holds, what waits and since when, and the job
board where there is one. The exit status is 1 when something needs a look: no
worker is at work, jobs have failed, the oldest message that is not matched yet is
older than --max-age, or the board does not answer."""

CLUSTER_EXAMPLES = """\
examples:
  zaqar-notify cluster status
  zaqar-notify cluster status --json --max-age 60
"""

LISTEN = """\
A small receiver for webhooks. Makes a secret, prints the curl line that
subscribes it with that secret, and then prints each notification and whether
its signature is right. Ctrl-C ends it."""

LISTEN_EXAMPLES = """\
examples:
  zaqar-notify listen
  zaqar-notify listen --queue orders --url http://127.0.0.1:8890
  zaqar-notify listen --status 500     to see retries
"""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of the descriptions as they are, and the commands on one line each."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zaqar-notify",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"zaqar-notify {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND ...", required=True, prog=parser.prog)
    configured = _configuration_options()
    listening = _listening_options()

    serve = _add(commands, "serve", "run API and worker on one machine", (SERVE, SERVE_EXAMPLES), [listening, configured])
    serve.set_defaults(run=run_serve)
    api = _add(commands, "api", "run the API alone", (API, API_EXAMPLES), [listening, configured])
    api.add_argument("--port-fd", type=int, help=argparse.SUPPRESS)  # the bound port, from 'serve'
    api.set_defaults(run=run_api)
    worker = _add(commands, "worker", "run a worker alone", (WORKER, WORKER_EXAMPLES), [configured])
    worker.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)  # where to say 'ready' to 'serve'
    worker.set_defaults(run=run_worker)

    notifiers = _add(
        commands, "notifiers", "list what is loaded, for which schemes", (NOTIFIERS, NOTIFIERS_EXAMPLES), [configured]
    )
    notifiers.add_argument("--json", action="store_true", help="machine-readable output")
    notifiers.set_defaults(run=run_notifiers)
    config = _add(commands, "config", "show each effective option", (CONFIG, CONFIG_EXAMPLES), [listening, configured])
    config.add_argument("--json", action="store_true", help="machine-readable output")
    config.set_defaults(run=run_config)

    database = _add(commands, "db", "look after the database", (DB, DB_EXAMPLES))
    actions = database.add_subparsers(title="actions", metavar="ACTION", required=True)
    upgrade = _add(actions, "upgrade", "bring the database to this version's schema", (DB, DB_EXAMPLES), [configured])
    upgrade.set_defaults(run=run_upgrade)
    copy = _add(actions, "copy", "copy everything into another database", (DB_COPY, DB_COPY_EXAMPLES), [configured])
    where = copy.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="URL", help="the destination ([storage] connection)")
    where.add_argument("--to-config-file", metavar="F", help="a configuration file with the destination's [storage] connection")
    copy.add_argument("--again", action="store_true", help="go over what an earlier copy, or anything else, has left there")
    copy.add_argument("--while-running", action="store_true", help="although workers are at work")
    copy.set_defaults(run=run_copy)

    _add_cluster(commands, configured)
    _add_job(commands, configured)
    _add_key(commands, configured)
    _add_listen(commands)
    return parser


def _add(
    commands: _Commands, name: str, summary: str, texts: tuple[str, str], parents: Sequence[argparse.ArgumentParser] = ()
) -> argparse.ArgumentParser:
    """``texts``: what stands above the options, and the examples below them."""
    description, epilog = texts
    return commands.add_parser(
        name, help=summary, description=description, epilog=epilog, parents=list(parents), formatter_class=Formatter
    )


def _configuration_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--data", metavar="DIR", help="data directory ([DEFAULT] data_dir; default: var)")
    options.add_argument(
        "--config-file",
        metavar="F",
        dest="config_files",
        action="append",
        default=[],
        help="configuration file; may be given several times, later ones win",
    )
    options.add_argument("--debug", action="store_const", const=True, help="log at DEBUG instead of INFO")
    return options


def _listening_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--host", metavar="H", help="address to listen on ([api] host; default: 127.0.0.1)")
    options.add_argument("--port", metavar="P", type=port, help="port to listen on ([api] port; default: 8888)")
    return options


def _add_cluster(commands: _Commands, configured: argparse.ArgumentParser) -> None:
    cluster = _add(commands, "cluster", "look at all workers, and what waits", (CLUSTER, CLUSTER_EXAMPLES))
    actions = cluster.add_subparsers(title="actions", metavar="ACTION", required=True)
    status = _add(actions, "status", "show workers, backlog and job board", (CLUSTER, CLUSTER_EXAMPLES), [configured])
    status.add_argument(
        "--max-age", metavar="S", type=float, default=300.0, help="seconds that a message may wait to be matched (default: 300)"
    )
    status.add_argument("--json", action="store_true", help="machine-readable output")
    status.set_defaults(run=run_cluster_status)


def _add_job(commands: _Commands, configured: argparse.ArgumentParser) -> None:
    job = _add(commands, "job", "list, retry and drop long jobs", (JOB, JOB_LIST_EXAMPLES + JOB_RETRY_EXAMPLES))
    actions = job.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = _add(actions, "list", "list the jobs", (JOB_LIST, JOB_LIST_EXAMPLES), [configured])
    listing.add_argument("--failed", action="store_true", help="those that have failed only")
    listing.add_argument("--limit", metavar="N", type=int, default=1000, help="at most so many (default: %(default)s)")
    listing.add_argument("--json", action="store_true", help="machine-readable output")
    listing.set_defaults(run=run_job_list)
    show = _add(actions, "show", "show one job", (JOB_SHOW, JOB_SHOW_EXAMPLES), [configured])
    show.add_argument("id", metavar="ID", help="the job's id")
    show.set_defaults(run=run_job_show)
    retry = _add(actions, "retry", "let failed jobs go on", (JOB_RETRY, JOB_RETRY_EXAMPLES), [configured])
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", metavar="ID", nargs="*", default=[], help="the jobs' ids")
    which.add_argument("--all", action="store_true", help="all that have failed")
    retry.set_defaults(run=run_job_retry)
    drop = _add(actions, "drop", "give a job up", (JOB_DROP, JOB_DROP_EXAMPLES), [configured])
    drop.add_argument("id", metavar="ID", help="the job's id")
    drop.set_defaults(run=run_job_drop)


def _add_key(commands: _Commands, configured: argparse.ArgumentParser) -> None:
    key = _add(commands, "key", "make, list and revoke API keys", (KEY, KEY_EXAMPLES))
    actions = key.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = _add(actions, "create", "make a key and print it", (KEY_CREATE, KEY_CREATE_EXAMPLES), [configured])
    create.add_argument("--project", metavar="P", required=True, help="the project whose things the key opens")
    create.add_argument("--roles", metavar="R,...", required=True, help="of read, publish, subscribe and admin")
    create.add_argument("--name", metavar="TEXT", default="", help="what it is for, shown in the list")
    create.add_argument("--json", action="store_true", help="print what else is known about it, too")
    create.set_defaults(run=run_key_create)
    listing = _add(actions, "list", "list the keys", (KEY_LIST, KEY_LIST_EXAMPLES), [configured])
    listing.add_argument("--project", metavar="P", help="those of one project only")
    listing.add_argument("--json", action="store_true", help="machine-readable output")
    listing.set_defaults(run=run_key_list)
    revoke = _add(actions, "revoke", "revoke a key", (KEY_REVOKE, KEY_REVOKE_EXAMPLES), [configured])
    revoke.add_argument("id", metavar="ID", help="the key's id")
    revoke.set_defaults(run=run_key_revoke)


def _add_listen(commands: _Commands) -> None:
    listen = _add(commands, "listen", "receive notifications and print them", (LISTEN, LISTEN_EXAMPLES))
    listen.add_argument("--host", metavar="H", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    listen.add_argument(
        "--port", metavar="P", type=port, default=8889, help="port to listen on; 0 takes a free one (default: %(default)s)"
    )
    listen.add_argument("--queue", metavar="Q", default="demo", help="queue to subscribe to (default: %(default)s)")
    listen.add_argument("--url", metavar="URL", default="http://127.0.0.1:8888", help="where the API is (default: %(default)s)")
    listen.add_argument("--project", metavar="ID", default="demo", help="project to subscribe in (default: %(default)s)")
    listen.add_argument("--secret", metavar="whsec_...", help="use this secret again instead of making one")
    listen.add_argument("--status", metavar="N", type=int, default=204, help="answer with this status (default: %(default)s)")
    listen.add_argument("--delay", metavar="S", type=float, default=0.0, help="answer after S seconds (default: at once)")
    listen.set_defaults(run=run_listen)


def port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return number


# Each command imports what it needs when it runs: `--help` and `listen` start without the service's packages.


def run_serve(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import serve

    return serve.run(arguments)


def run_api(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import api

    return api.run(arguments)


def run_worker(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import worker

    return worker.run(arguments)


def run_notifiers(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import show

    return show.notifiers(arguments)


def run_config(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import show

    return show.config(arguments)


def run_upgrade(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import database

    return database.upgrade(arguments)


def run_copy(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import copy

    return copy.run(arguments)


def run_cluster_status(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import cluster

    return cluster.status(arguments)


def run_job_list(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import job

    return job.list_jobs(arguments)


def run_job_show(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import job

    return job.show_job(arguments)


def run_job_retry(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import job

    return job.retry(arguments)


def run_job_drop(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import job

    return job.drop(arguments)


def run_key_create(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import key

    return key.create(arguments)


def run_key_list(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import key

    return key.list_keys(arguments)


def run_key_revoke(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import key

    return key.revoke(arguments)


def run_listen(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import listen

    return listen.run(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 after a failure, 2 when the command cannot start, 130 after Ctrl-C."""
    arguments = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except errors.CannotStart as error:
        return _complain(error, 2)
    except errors.NotifyError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has seen enough (`| head`). Keep the interpreter from writing to it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _complain(error: errors.NotifyError, status: int) -> int:
    print(f"zaqar-notify: {' '.join(str(error).split())}", file=sys.stderr)
    return status
