-- The balance of an account: as aggregates and as folds, with the same transitions.
CREATE FUNCTION balance_plpgsql_step(state jsonb, event daybook.event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	RETURN jsonb_build_object('events', (state->>'events')::numeric + 1,
		'balance', (state->>'balance')::numeric +
			CASE WHEN event.type LIKE 'W%' THEN -1 ELSE 1 END * (event.data->>'amount')::numeric);
END $$;
CREATE FUNCTION sum_plpgsql_step(state numeric, event daybook.event) RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
	RETURN state + CASE WHEN event.type LIKE 'W%' THEN -1 ELSE 1 END * (event.data->>'amount')::numeric;
END $$;
CREATE FUNCTION balance_c_step(jsonb, daybook.event) RETURNS jsonb
	AS :'library', 'bench_balance' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION sum_c_step(numeric, daybook.event) RETURNS numeric
	AS :'library', 'bench_sum' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE AGGREGATE balance_plpgsql(daybook.event) (
	SFUNC = balance_plpgsql_step, STYPE = jsonb, INITCOND = '{"events": 0, "balance": 0}');
CREATE AGGREGATE sum_plpgsql(daybook.event) (
	SFUNC = sum_plpgsql_step, STYPE = numeric, INITCOND = '0');
CREATE AGGREGATE balance_c(daybook.event) (
	SFUNC = balance_c_step, STYPE = jsonb, INITCOND = '{"events": 0, "balance": 0}');
CREATE AGGREGATE sum_c(daybook.event) (
	SFUNC = sum_c_step, STYPE = numeric, INITCOND = '0');

SELECT daybook.create_fold('balance_plpgsql', 'event', 'balance_plpgsql_step(jsonb, daybook.event)', '{"events": 0, "balance": 0}'::jsonb, snapshot_every => 0);
SELECT daybook.create_fold('balance_c', 'event', 'balance_c_step(jsonb, daybook.event)', '{"events": 0, "balance": 0}'::jsonb, snapshot_every => 0);
SELECT daybook.create_fold('sum_c', 'event', 'sum_c_step(numeric, daybook.event)', 0::numeric, snapshot_every => 0);
SELECT daybook.create_fold('sum_plpgsql', 'event', 'sum_plpgsql_step(numeric, daybook.event)', 0::numeric, snapshot_every => 0);
