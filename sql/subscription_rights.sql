-- Subscriptions: who may do what
SET client_min_messages = warning;
CREATE ROLE subr_owner;
CREATE ROLE subr_mailer;
CREATE ROLE subr_other;
CREATE FUNCTION subr_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE detail text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || SQLERRM || coalesce(' / ' || nullif(detail, ''), '');
END $$;
SELECT daybook.create_event_table('subr_a');

-- the owner must be able to read the events
SET ROLE subr_owner;
SELECT subr_try($$SELECT daybook.create_subscription('subr', '{subr_a}')$$);
RESET ROLE;
GRANT SELECT ON subr_a TO subr_owner;
SET ROLE subr_owner;
SELECT daybook.create_subscription('subr', '{subr_a}', from_position => daybook.head());
RESET ROLE;
INSERT INTO subr_a (stream_id, type) VALUES ('a-1', 'T'), ('a-1', 'T'), ('a-2', 'T');

-- others may not consume, nor see what is held back, but how far it is
SET ROLE subr_mailer;
SELECT subr_try($$SELECT daybook.fetch('subr')$$);
SELECT subr_try($$SELECT daybook.ack('subr', 1)$$);
SELECT subr_try($$SELECT daybook.nack('subr', 1, 1, 'x')$$);
SELECT subr_try($$SELECT daybook.extend_lease('subr', 1)$$);
SELECT subr_try($$SELECT daybook.release_lease('subr', 1)$$);
SELECT subr_try($$SELECT daybook.grant_subscription('subr', 'subr_mailer')$$);
SELECT name, owner FROM daybook.subscription_status WHERE name = 'subr';
SELECT subr_try($$SELECT * FROM daybook.subscription$$);
SELECT subr_try($$SELECT * FROM daybook.subscription_queue$$);
SELECT subr_try($$SELECT * FROM daybook.subscription_discard$$);
RESET ROLE;

-- with a grant: no need to be able to read the table
SET ROLE subr_owner;
SELECT daybook.grant_subscription('subr', 'subr_mailer');
SELECT daybook.grant_subscription('subr', 'subr_mailer') AS twice;
SELECT consumers FROM daybook.subscription_status WHERE name = 'subr';
SET ROLE subr_mailer;
SELECT subr_try($$SELECT * FROM subr_a$$);
SELECT stream_id, version, recorded_by = session_user AS by FROM daybook.fetch('subr', wait => '30s');
SELECT current_user;
SELECT max(lease) AS lease, min(position) AS first FROM daybook.fetch('subr') \gset
SELECT daybook.nack('subr', :lease, :first, 'a secret of a-1', park => true) IS NULL AS parked;
SELECT stream_id, state, reason FROM daybook.subscription_parked ORDER BY position;
SELECT subr_try(format('SELECT daybook.subscription_retry_parked(%L)', 'subr'));
SELECT subr_try(format('SELECT daybook.subscription_discard_parked(%L, %s, %L)', 'subr', :first, 'x'));
SELECT subr_try($$SELECT daybook.grant_subscription('subr', 'subr_other')$$);
SELECT subr_try($$SELECT daybook.drop_subscription('subr')$$);
SET ROLE subr_other;
SELECT stream_id, state, reason FROM daybook.subscription_parked ORDER BY position;
SELECT count(*) FROM daybook.subscription_discarded;
-- not even by a function that the planner would rather call first
CREATE FUNCTION pg_temp.subr_tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN
	RAISE WARNING 'seen: %', $1;
	RETURN true;
END $$;
SELECT count(*) FROM daybook.subscription_parked WHERE pg_temp.subr_tell(reason);
SET ROLE subr_owner;
SELECT daybook.subscription_discard_parked('subr', :first, 'unknown');
SET ROLE subr_other;
SELECT count(*) FROM daybook.subscription_discarded WHERE pg_temp.subr_tell(failure);
SET ROLE subr_owner;
SELECT stream_id, failure, reason, discarded_by = session_user AS by FROM daybook.subscription_discarded;
SELECT daybook.revoke_subscription('subr', 'subr_mailer');
SELECT daybook.revoke_subscription('subr', 'subr_mailer') AS twice;
SELECT subr_try($$SELECT daybook.grant_subscription('subr', 0)$$);
SET ROLE subr_mailer;
SELECT subr_try($$SELECT daybook.fetch('subr')$$);
RESET ROLE;

-- a transaction that reads only, whoever it is
BEGIN READ ONLY;
SELECT subr_try(statement) FROM unnest('{
	"SELECT daybook.create_subscription(''subr_more'', ''{subr_a}'')",
	"SELECT daybook.grant_subscription(''subr'', ''subr_other'')",
	"SELECT daybook.revoke_subscription(''subr'', ''subr_other'')",
	"SELECT daybook.drop_subscription(''subr'')",
	"SELECT daybook.fetch(''subr'')",
	"SELECT daybook.ack(''subr'', 1)",
	"SELECT daybook.subscription_retry_parked(''subr'')"}'::text[]) statement;
COMMIT;

-- the owner's rights count at each fetch
REVOKE SELECT ON subr_a FROM subr_owner;
SET ROLE subr_owner;
SELECT subr_try($$SELECT daybook.fetch('subr')$$);
SELECT current_user;
RESET ROLE;
SELECT subr_try($$SELECT daybook.fetch('subr')$$);
DROP ROLE subr_owner;
SELECT regexp_replace(subr_try($$SELECT daybook.fetch('subr')$$), '\d+\.', 'N.');
SELECT daybook.drop_subscription('subr');

DROP OWNED BY subr_other;
DROP ROLE subr_mailer, subr_other;
DROP FUNCTION subr_try;
SELECT daybook.drop_event_table('subr_a', force => true);
