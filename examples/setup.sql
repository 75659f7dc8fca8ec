-- Bank accounts: their events, a table of balances, and a subscription for a
-- program that tells the owners.
\set ON_ERROR_STOP on
BEGIN;
SELECT daybook.create_event_table('account');

-- what withdrawals are checked against, and owners see
CREATE TABLE balance (account text PRIMARY KEY, amount numeric NOT NULL);
SELECT daybook.create_projection('balance', '{account}', $$
    INSERT INTO balance
    SELECT stream_id, sum(CASE type WHEN 'Withdrawn' THEN -1 ELSE 1 END * (data->>'amount')::numeric)
    FROM new_events
    GROUP BY stream_id
    ON CONFLICT (account) DO UPDATE SET amount = balance.amount + excluded.amount
$$, tables => '{balance}', types => '{Deposited,Withdrawn}');

-- four programs can share the work; an event that fails three times is parked
SELECT daybook.create_subscription('mailer', '{account}', partitions => 4, delivery_limit => 3);

-- the mails that were sent
CREATE TABLE mail (
    event_id uuid PRIMARY KEY,
    account text NOT NULL,
    body text NOT NULL,
    sent_by text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMIT;
