-- Withdraws an amount, if the account has it.
--
--   psql -v account=account-1 -v amount=30 -f withdraw.sql
\set ON_ERROR_STOP on

-- The decision is taken on the account's events, and holds only if no other has
-- come since: 40001 says that one has, and the decision is taken again.
CREATE OR REPLACE PROCEDURE pg_temp.withdraw(account text, amount numeric) LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
    funds numeric;
BEGIN
    FOR attempt IN 1..20 LOOP
        SELECT coalesce(max(version), 0),
               coalesce(sum(CASE type WHEN 'Withdrawn' THEN -1 ELSE 1 END * (data->>'amount')::numeric)
                   FILTER (WHERE type IN ('Deposited', 'Withdrawn')), 0)
        INTO found, funds
        FROM daybook.replay('account', account);
        IF funds < amount THEN
            RAISE EXCEPTION 'account % has only %', account, funds;
        END IF;
        BEGIN
            PERFORM daybook.append('account', account, 'Withdrawn',
                jsonb_build_object('amount', amount), expected_version => found);
            RETURN;
        EXCEPTION WHEN serialization_failure THEN
            PERFORM pg_sleep(random() * 0.01 * attempt);
        END;
    END LOOP;
    RAISE EXCEPTION 'account % is too busy', account;
END $$;

CALL pg_temp.withdraw(:'account', :'amount');
