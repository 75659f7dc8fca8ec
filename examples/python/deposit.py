"""Deposits an amount and shows the balance with it.

    deposit.py account-1 100
"""
import sys

import psycopg
from psycopg.types.json import Jsonb


def deposit(conn, account, amount):
    conn.execute(
        "SELECT daybook.append('account', %s, 'Deposited', %s)",
        (account, Jsonb({"amount": amount})),
    )


def balance(conn, account):
    # The projection is kept by a worker: wait until it has come to this
    # session's last commit.  It is told when that happens; nobody polls.
    conn.execute("SELECT daybook.wait_for_projection('balance', timeout => '10s')")
    row = conn.execute("SELECT amount FROM balance WHERE account = %s", (account,)).fetchone()
    return row[0] if row else 0


def main():
    account, amount = sys.argv[1], float(sys.argv[2])
    # autocommit: the deposit is committed before the wait for it begins
    with psycopg.connect(autocommit=True) as conn:
        deposit(conn, account, amount)
        print(account, balance(conn, account))


if __name__ == "__main__":
    main()
