-- The example of docs/schema.md: an order that was placed in two versions
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS daybook;
SELECT daybook.create_event_table('orders');
INSERT INTO orders (stream_id, type, data) VALUES ('order-1', 'OrderPlaced', '{"total": 119.00}');

CREATE TYPE order_placed AS (subtotal numeric, tax numeric, currency text);
SELECT daybook.register_event_type('orders', 'OrderPlaced', 2, 'order_placed');

CREATE FUNCTION order_placed_2(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_build_object(
        'subtotal', round((data->>'total')::numeric / 1.19, 2),
        'tax', (data->>'total')::numeric - round((data->>'total')::numeric / 1.19, 2),
        'currency', 'EUR')
$$;
SELECT daybook.create_upcaster('orders', 'OrderPlaced', 1, 'order_placed_2(jsonb)');

INSERT INTO orders (stream_id, type, schema_version, data)
VALUES ('order-2', 'OrderPlaced', 2, '{"subtotal": 100.00, "tax": 19.00, "currency": "EUR"}');

SELECT stream_id, schema_version, data FROM orders ORDER BY id;
SELECT r.stream_id, r.schema_version, r.data
FROM (VALUES ('order-1'), ('order-2')) o(stream_id), daybook.replay('orders', o.stream_id) r ORDER BY 1;

CREATE FUNCTION order_state(state jsonb, e daybook.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    CASE e.type
        WHEN 'OrderPlaced' THEN RETURN e.data || '{"paid": false}';
        WHEN 'OrderPaid' THEN RETURN state || '{"paid": true}';
        ELSE RETURN state;
    END CASE;
END $$;
SELECT daybook.create_fold('order', 'orders', 'order_state(jsonb, daybook.event)', '{}');
SELECT stream_id, version, state FROM daybook.fold_all('order') ORDER BY stream_id;

-- what the stored versions lead to, and the view of them all
SELECT type, schema_version, events, path, mismatch FROM daybook.schema_status WHERE event_table = 'orders'::regclass ORDER BY 1, 2;
SELECT * FROM daybook.check_upcasters('orders', all_events => true) ORDER BY 1, 2;
SELECT daybook.create_event_view('orders', 'OrderPlaced');
SELECT stream_id, subtotal, tax, currency FROM orders_order_placed ORDER BY id;
-- what no longer fits is refused
INSERT INTO orders (stream_id, type, schema_version, data) VALUES ('order-3', 'OrderPlaced', 2, '{"subtotal": "ten"}');
INSERT INTO orders (stream_id, type, schema_version, data) VALUES ('order-3', 'OrderPlaced', 2, '{"total": 10}');

-- as it was, and what has changed
INSERT INTO orders (stream_id, type, data, metadata) VALUES ('order-1', 'OrderPaid', '{"amount": 119.00}', '{"actor": "ann", "reason": "bank transfer"}');
SELECT daybook.fold('order', 'order-1'), daybook.fold('order', 'order-1', 1), daybook.fold('order', 'order-1', until => '2000-01-01');
SELECT * FROM daybook.diff('order', 'order-1', 1, 2);
SELECT version, who = 'ann' AS ann, type, summary, why FROM daybook.history('order-1');

DROP VIEW orders_order_placed;
SELECT daybook.drop_event_table('orders', force => true);
DROP TYPE order_placed;
DROP FUNCTION order_placed_2(jsonb), order_state(jsonb, daybook.event);
