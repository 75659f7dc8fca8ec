-- An event table, and a table of balances that the background worker shall keep.
SELECT daybook.create_event_table('account');

CREATE TABLE balance (account text PRIMARY KEY, amount numeric NOT NULL);

SELECT daybook.create_projection('balance', '{account}', $$
    INSERT INTO balance
    SELECT stream_id, sum(CASE type WHEN 'Withdrawn' THEN -1 ELSE 1 END * (data->>'amount')::numeric)
    FROM new_events
    GROUP BY stream_id
    ON CONFLICT (account) DO UPDATE SET amount = balance.amount + excluded.amount
$$, tables => '{balance}');

-- An account is opened with 100; 50 are deposited; 20 are withdrawn by someone
-- who has seen version 2 and no later one.
SELECT * FROM daybook.append('account', 'account-1', 'Opened', '{"amount": 100}');
SELECT * FROM daybook.append('account', 'account-1', 'Deposited', '{"amount": 50}');
SELECT * FROM daybook.append('account', 'account-1', 'Withdrawn', '{"amount": 20}', expected_version => 2);

-- The balance by replay of the events:
SELECT version, type, data,
       sum(CASE type WHEN 'Withdrawn' THEN -1 ELSE 1 END * (data->>'amount')::numeric) OVER (ORDER BY version) AS balance
FROM daybook.replay('account', 'account-1');

-- The balance that the worker kept:
SELECT daybook.wait_for_projection('balance');
SELECT * FROM balance;
