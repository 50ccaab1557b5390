"""The command line: the parser, and what every command has in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from zaqar_notify import __version__, errors
from zaqar_notify.commands import texts

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of the descriptions as they are, and the commands on one line each."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zaqar-notify",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description=texts.DESCRIPTION,
        epilog=texts.EPILOG,
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"zaqar-notify {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND ...", required=True, prog=parser.prog)
    configured = _configuration_options()
    listening = _listening_options()

    serve = _add(
        commands,
        "serve",
        "run API and worker on one machine",
        (texts.SERVE, texts.SERVE_EXAMPLES),
        [listening, configured],
    )
    serve.set_defaults(run=run_serve)
    api = _add(commands, "api", "run the API alone", (texts.API, texts.API_EXAMPLES), [listening, configured])
    api.add_argument("--port-fd", type=int, help=argparse.SUPPRESS)  # the bound port, from 'serve'
    api.set_defaults(run=run_api)
    worker = _add(commands, "worker", "run a worker alone", (texts.WORKER, texts.WORKER_EXAMPLES), [configured])
    worker.add_argument(
        "--schemes",
        type=lambda text: [word.strip() for word in text.split(",") if word.strip()],
        default=[],
        metavar="SCHEME,...",
        help="serve these, of [worker] apart, and nothing else",
    )
    worker.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)  # where to say 'ready' to 'serve'
    worker.set_defaults(run=run_worker)
    receive = _add(commands, "receive", "take bounces of mails, by LMTP", (texts.RECEIVE, texts.RECEIVE_EXAMPLES), [configured])
    receive.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)  # where to say 'ready' to 'serve'
    receive.set_defaults(run=run_receive)

    notifiers = _add(
        commands,
        "notifiers",
        "list what is loaded, for which schemes",
        (texts.NOTIFIERS, texts.NOTIFIERS_EXAMPLES),
        [configured],
    )
    notifiers.add_argument("--json", action="store_true", help="machine-readable output")
    notifiers.set_defaults(run=run_notifiers)
    config = _add(
        commands, "config", "show each effective option", (texts.CONFIG, texts.CONFIG_EXAMPLES), [listening, configured]
    )
    config.add_argument("--json", action="store_true", help="machine-readable output")
    config.set_defaults(run=run_config)

    database = _add(commands, "db", "look after the database", (texts.DB, texts.DB_EXAMPLES))
    actions = database.add_subparsers(title="actions", metavar="ACTION", required=True)
    upgrade = _add(
        actions,
        "upgrade",
        "bring the database to this version's schema",
        (texts.DB_UPGRADE, texts.DB_UPGRADE_EXAMPLES),
        [configured],
    )
    upgrade.set_defaults(run=run_upgrade)
    copy = _add(actions, "copy", "copy everything into another database", (texts.DB_COPY, texts.DB_COPY_EXAMPLES), [configured])
    where = copy.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="URL", help="the destination ([storage] connection)")
    where.add_argument("--to-config-file", metavar="F", help="a configuration file with the destination's [storage] connection")
    copy.add_argument("--again", action="store_true", help="go over what an earlier copy, or anything else, has left there")
    copy.add_argument("--while-running", action="store_true", help="although workers are at work")
    copy.set_defaults(run=run_copy)

    _add_cluster(commands, configured)
    _add_job(commands, configured)
    _add_key(commands, configured)
    _add_send(commands, configured)
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
    cluster = _add(commands, "cluster", "look at all workers, and what waits", (texts.CLUSTER, texts.CLUSTER_EXAMPLES))
    actions = cluster.add_subparsers(title="actions", metavar="ACTION", required=True)
    status = _add(
        actions, "status", "show workers, backlog and job board", (texts.CLUSTER, texts.CLUSTER_EXAMPLES), [configured]
    )
    status.add_argument(
        "--max-age", metavar="S", type=float, default=300.0, help="seconds that a message may wait to be matched (default: 300)"
    )
    status.add_argument("--json", action="store_true", help="machine-readable output")
    status.set_defaults(run=run_cluster_status)


def _add_job(commands: _Commands, configured: argparse.ArgumentParser) -> None:
    job = _add(commands, "job", "list, retry and drop long jobs", (texts.JOB, texts.JOB_EXAMPLES))
    actions = job.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = _add(actions, "list", "list the jobs", (texts.JOB_LIST, texts.JOB_LIST_EXAMPLES), [configured])
    listing.add_argument("--failed", action="store_true", help="those that have failed only")
    listing.add_argument("--limit", metavar="N", type=int, default=1000, help="at most so many (default: %(default)s)")
    listing.add_argument("--json", action="store_true", help="machine-readable output")
    listing.set_defaults(run=run_job_list)
    show = _add(actions, "show", "show one job", (texts.JOB_SHOW, texts.JOB_SHOW_EXAMPLES), [configured])
    show.add_argument("id", metavar="ID", help="the job's id")
    show.set_defaults(run=run_job_show)
    retry = _add(actions, "retry", "let failed jobs go on", (texts.JOB_RETRY, texts.JOB_RETRY_EXAMPLES), [configured])
    which = retry.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", metavar="ID", nargs="*", default=[], help="the jobs' ids")
    which.add_argument("--all", action="store_true", help="all that have failed")
    retry.set_defaults(run=run_job_retry)
    drop = _add(actions, "drop", "give a job up", (texts.JOB_DROP, texts.JOB_DROP_EXAMPLES), [configured])
    drop.add_argument("id", metavar="ID", help="the job's id")
    drop.set_defaults(run=run_job_drop)


def _add_key(commands: _Commands, configured: argparse.ArgumentParser) -> None:
    key = _add(commands, "key", "make, list and revoke API keys", (texts.KEY, texts.KEY_EXAMPLES))
    actions = key.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = _add(actions, "create", "make a key and print it", (texts.KEY_CREATE, texts.KEY_CREATE_EXAMPLES), [configured])
    create.add_argument("--project", metavar="P", required=True, help="the project whose things the key opens")
    create.add_argument("--roles", metavar="R,...", required=True, help="of read, publish, subscribe and admin")
    create.add_argument("--name", metavar="TEXT", default="", help="what it is for, shown in the list")
    create.add_argument("--json", action="store_true", help="print what else is known about it, too")
    create.set_defaults(run=run_key_create)
    listing = _add(actions, "list", "list the keys", (texts.KEY_LIST, texts.KEY_LIST_EXAMPLES), [configured])
    listing.add_argument("--project", metavar="P", help="those of one project only")
    listing.add_argument("--json", action="store_true", help="machine-readable output")
    listing.set_defaults(run=run_key_list)
    revoke = _add(actions, "revoke", "revoke a key", (texts.KEY_REVOKE, texts.KEY_REVOKE_EXAMPLES), [configured])
    revoke.add_argument("id", metavar="ID", help="the key's id")
    revoke.set_defaults(run=run_key_revoke)


def _add_send(commands: _Commands, configured: argparse.ArgumentParser) -> None:
    send = _add(commands, "send", "try one notification, without the service", (texts.SEND, texts.SEND_EXAMPLES), [configured])
    send.add_argument("uri", metavar="URI", help="the subscriber, such as mailto:ann@example.org")
    send.add_argument("--body", metavar="B", required=True, help="JSON or a text; @FILE or - (standard input) with one of them")
    send.add_argument(
        "--option",
        metavar="NAME=VALUE",
        dest="options",
        action="append",
        default=[],
        help="an option of the subscription, JSON or a text; may be given several times",
    )
    send.add_argument("--queue", metavar="Q", default="demo", help="queue that it seems to come from (default: %(default)s)")
    send.add_argument("--language", metavar="L", help="language tag of the message, such as sv")
    send.add_argument("--priority", metavar="P", help="very-low, low, normal or high")
    send.add_argument("--collapse-key", metavar="K", help="of two with the same key only the later matters")
    send.add_argument("--ttl", metavar="S", type=int, help="time to live of the message, in seconds")
    send.add_argument("--timeout", metavar="S", type=positive, help="seconds that the attempt may take")
    send.add_argument("--dry-run", action="store_true", help="do everything but send, where the notifier can")
    send.add_argument("-v", "--verbose", action="store_true", help="show what went over the wire, too")
    send.add_argument("--json", action="store_true", help="machine-readable output")
    send.set_defaults(run=run_send)


def _add_listen(commands: _Commands) -> None:
    listen = _add(commands, "listen", "receive notifications and print them", (texts.LISTEN, texts.LISTEN_EXAMPLES))
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


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("seconds have to be a number above 0")
    return number


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


def run_receive(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import receive

    return receive.run(arguments)


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


def run_send(arguments: argparse.Namespace) -> int:
    from zaqar_notify.commands import send

    return send.run(arguments)


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
