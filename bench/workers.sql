-- The projection of balance.sql by one of several handlers, for rebuilds by several workers.
CREATE TABLE balance (stream_id text PRIMARY KEY, events bigint NOT NULL, amount numeric NOT NULL);

CREATE OR REPLACE FUNCTION add_to_balance(event daybook.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO balance VALUES (event.stream_id, 1, (event.data->>'amount')::numeric)
	ON CONFLICT (stream_id) DO UPDATE
	SET events = balance.events + 1, amount = balance.amount + excluded.amount;
END $$;

\if :by_hand
\elif :is_function
SELECT daybook.create_projection('balance', '{event}', 'add_to_balance(daybook.event)'::regprocedure, '{balance}', independent_streams => true);
\else
SELECT daybook.create_projection('balance', '{event}', :'handler', '{balance}', independent_streams => true);
\endif
