"""Withdraws an amount, if the account has it.

    withdraw.py account-1 30
"""
import random
import sys
import time

import psycopg
from psycopg.types.json import Jsonb

ATTEMPTS = 20


class NotEnough(Exception):
    pass


def funds(conn, account):
    """What the account's events say, and the version of the last one."""
    amount, version = 0, 0
    for version, kind, data in conn.execute(
        "SELECT version, type, data FROM daybook.replay('account', %s)", (account,)
    ):
        if kind == "Deposited":
            amount += data["amount"]
        elif kind == "Withdrawn":
            amount -= data["amount"]
    return amount, version


def withdraw(conn, account, amount):
    # The decision is taken on the account's events, and holds only if no other
    # has come since: 40001 says that one has, and the decision is taken again.
    for attempt in range(ATTEMPTS):
        available, version = funds(conn, account)
        if available < amount:
            raise NotEnough(f"{account} has only {available}")
        try:
            conn.execute(
                "SELECT daybook.append('account', %s, 'Withdrawn', %s, expected_version => %s)",
                (account, Jsonb({"amount": amount}), version),
            )
            return
        except psycopg.errors.SerializationFailure:
            time.sleep(random.uniform(0, 0.01 * (attempt + 1)))
    raise TimeoutError(f"{account} is too busy")


def main():
    account, amount = sys.argv[1], float(sys.argv[2])
    with psycopg.connect(autocommit=True) as conn:
        try:
            withdraw(conn, account, amount)
        except NotEnough as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
