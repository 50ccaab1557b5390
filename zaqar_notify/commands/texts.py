"""What `--help` says of each command: what stands above its options, and the examples below them."""

from __future__ import annotations

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
Runs the API and a worker, and a receiver of bounces where [receive] listen is
set, each as a process of its own, on an SQLite database in the data directory.
The first start makes the directory, the database and the keys (secrets.conf,
mode 0600). A process that dies is started again. Ctrl-C stops them gracefully;
the next start finds everything again.

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

With --schemes it serves nothing but these, each of which has to be named in
[worker] apart: all other workers leave them to it. A plugin that takes its
process down then takes nothing else with it.

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
  zaqar-notify worker --schemes sms,udp --config-file my.conf
"""

RECEIVE = f"""\
Runs a receiver: a mail server hands it, by LMTP, what comes for the mailbox
that [email] bounce_to names. Reports of what became of a mail go into the
record of its delivery, mails to unsubscribe end a subscription, all else is
dropped. Needs keys; listens where [receive] listen says (127.0.0.1:8824).
SIGTERM stops it after the mails that are on their way in.

{KEYS}"""

RECEIVE_EXAMPLES = """\
example:
  zaqar-notify receive --config-file /etc/zaqar-notify/zaqar-notify.conf \\
                       --config-file /etc/zaqar-notify/secrets.conf
"""

NOTIFIERS = """\
Lists the URI schemes that subscribers can have, with the class that serves
each and the package that it comes from. Those that cannot be used come last,
with what is wrong with them: the status is then 1."""

NOTIFIERS_EXAMPLES = """\
examples:
  zaqar-notify notifiers
  zaqar-notify notifiers --config-file my.conf --json
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
Brings the configured database to the schema of this version, or copies all of
it into another one."""

DB_UPGRADE = """\
Brings the database to the schema of this version. Keeps all data; does nothing
when there is nothing to do."""

DB_EXAMPLES = """\
examples:
  zaqar-notify db upgrade
  zaqar-notify db copy --to-config-file new.conf
"""

DB_UPGRADE_EXAMPLES = """\
example:
  zaqar-notify db upgrade --config-file /etc/zaqar-notify/zaqar-notify.conf \\
                          --config-file /etc/zaqar-notify/secrets.conf
"""

DB_COPY = """\
Copies all that the configured storage has into another one, of the same or of
another engine: queues, messages, claims, subscriptions, what waits to be
delivered, and the log. Stop the API and the workers first; start them again
with the new [storage] connection.

Makes the schema at the destination, which has to be empty. In the end the
number of records of each kind is compared; the exit status is 1 when one
differs. Keys ([encryption] keys, [signed_url] secret_key) stay in the
configuration."""

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
Long work (the parts of a huge fan-out, replays) is done in jobs, each held by
one worker at a time. One that fails is kept, with its error, until somebody
retries or drops it, or [delivery_log] retention is over. Works on the
configured database while the service runs.

States: waiting (nobody holds it), running and failed."""

JOB_EXAMPLES = """\
examples:
  zaqar-notify job list --failed
  zaqar-notify job retry 19a2b3c4d5e6f708
"""

JOB_LIST = """\
Lists the jobs that are not done, the oldest first."""

JOB_SHOW = """\
Shows one job as JSON, with its details: what it is about and how far it is."""

JOB_RETRY = """\
Lets jobs that have failed go on where they were. A worker takes them up within
a second or so."""

JOB_DROP = """\
Gives a job up that waits or has failed. Of a part of a fan-out, those
subscribers that it has not come to never get the message, and nothing is logged
for them. One that a worker is at work on cannot be dropped."""

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
worker is at work, jobs have failed, the oldest message that is not matched yet
is older than --max-age, or the board does not answer."""

CLUSTER_EXAMPLES = """\
examples:
  zaqar-notify cluster status
  zaqar-notify cluster status --json --max-age 60
"""

SEND = """\
Sends one notification through the notifier of the URI's scheme, as a worker
would with this configuration, and shows what came of it. Needs no service and
no database, and stores nothing.

The status is 0 when it was delivered, 1 when it was not, and 2 when it could
not be tried: an unknown scheme, a target or an option that is not accepted, a
configuration that is not right."""

SEND_EXAMPLES = """\
examples:
  zaqar-notify send mailto:ann@example.org --body 'Hello Ann'
  zaqar-notify send https://example.org/hook --body '{"n": 1}' -v
  zaqar-notify send sms:+46701234567 --body @text --config-file my.conf --json
  zaqar-notify send fcm://shop/TOKEN --body Hello --dry-run
  echo '{"title": "T"}' | zaqar-notify send log:x --body -
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
