-- A client goes through its own streams in an order that jumps about; n counts
-- what it has appended in this run and the runs before.
\set pass :n / :per_client
\set stream (:n * 7919 % :per_client) * :clients + :client_id + 1
\set version 6 + :pass
\set n :n + 1

SELECT write_message(gen_random_uuid()::varchar, 'order-' || :stream, 'OrderPlaced', :payload);
