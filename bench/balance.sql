-- A projection of the usual kind: one row for each stream, kept by batches.
CREATE TABLE balance (stream_id text PRIMARY KEY, events bigint NOT NULL, amount numeric NOT NULL);

SELECT daybook.create_projection('balance', '{event}',
	$$INSERT INTO balance
	  SELECT stream_id, count(*), sum((data->>'amount')::numeric) FROM new_events GROUP BY stream_id
	  ON CONFLICT (stream_id) DO UPDATE
	  SET events = balance.events + excluded.events, amount = balance.amount + excluded.amount$$,
	'{balance}', batch_size => :batch);
