"""Sends a mail for each event, exactly once: what it writes is committed together
with the acknowledgement.  Run as many at a time as you like.

    mailer.py [SECONDS]      ends after that long without events; runs on without
"""
import signal
import sys

import psycopg
from psycopg.rows import namedtuple_row

SUBSCRIPTION = "mailer"

running = True


def stop(*_):
    """Ends after the batch in hand."""
    global running
    running = False


def send_mail(conn, event):
    if "amount" not in event.data:
        raise ValueError(f"{event.type} without an amount")
    conn.execute(
        "INSERT INTO mail (event_id, account, body, sent_by) VALUES (%s, %s, %s, 'python')",
        (event.event_id, event.stream_id, f"{event.type} {event.data['amount']}"),
    )


def handle(conn, batch):
    """One transaction: the mails, and the acknowledgement of their events."""
    lease = batch[0].lease
    failed = set()
    with conn.transaction():
        for event in batch:
            # what comes after an event that failed waits with it
            if event.stream_id in failed:
                continue
            try:
                with conn.transaction():  # a savepoint
                    send_mail(conn, event)
            except Exception as error:
                if conn.closed:
                    raise
                failed.add(event.stream_id)
                conn.execute(
                    "SELECT daybook.nack(%s, %s, %s, %s)",
                    (SUBSCRIPTION, lease, event.position, str(error)),
                )
        conn.execute("SELECT daybook.ack(%s, %s)", (SUBSCRIPTION, lease))


def consume(conn, idle):
    while running:
        # committed at once, so that it counts whatever becomes of the rest
        batch = conn.execute(
            "SELECT * FROM daybook.fetch(%s, max_events => 100, lease => '1 min', wait => make_interval(secs => %s))",
            (SUBSCRIPTION, idle or 10),
        ).fetchall()
        if batch:
            try:
                handle(conn, batch)
            except psycopg.errors.LockNotAvailable as error:
                # it took longer than the lease, and another one has the events now
                print(error, file=sys.stderr)
        elif idle:
            return


def main():
    idle = float(sys.argv[1]) if len(sys.argv) > 1 else None
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with psycopg.connect(autocommit=True, row_factory=namedtuple_row) as conn:
        consume(conn, idle)


if __name__ == "__main__":
    main()
