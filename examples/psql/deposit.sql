-- Deposits an amount and shows the balance with it.
--
--   psql -v account=account-1 -v amount=100 -f deposit.sql
\set ON_ERROR_STOP on

SELECT daybook.append('account', :'account', 'Deposited', jsonb_build_object('amount', :'amount'::numeric));

-- The projection is kept by a worker: wait until it has come to this session's
-- last commit.  It is told when that happens; nobody polls.
SELECT daybook.wait_for_projection('balance', timeout => '10s');

SELECT account, amount FROM balance WHERE account = :'account';
