-- Sends a mail for each event, exactly once: what it writes is committed together
-- with the acknowledgement.  Ends after some time without events, ten seconds
-- unless idle is set.
--
--   psql [-v idle=3] -f mailer.sql      as many at a time as you like
\set ON_ERROR_STOP on
\if :{?idle}
\else
    \set idle 10
\endif

CREATE OR REPLACE PROCEDURE pg_temp.send_mail(event daybook.delivery) LANGUAGE plpgsql AS $$
BEGIN
    IF event.data->>'amount' IS NULL THEN
        RAISE EXCEPTION '% without an amount', event.type;
    END IF;
    INSERT INTO mail (event_id, account, body, sent_by)
    VALUES (event.event_id, event.stream_id, format('%s %s', event.type, event.data->>'amount'), 'psql');
END $$;

CREATE OR REPLACE PROCEDURE pg_temp.mailer(idle interval) LANGUAGE plpgsql AS $$
DECLARE
    batch daybook.delivery[];
    event daybook.delivery;
    failed text[];
BEGIN
    LOOP
        -- committed at once, so that it counts whatever becomes of the rest
        SELECT array_agg(f ORDER BY f.position) INTO batch
        FROM daybook.fetch('mailer', max_events => 100, lease => '1 min', wait => idle) f;
        COMMIT;
        EXIT WHEN batch IS NULL;

        failed := '{}';
        BEGIN
            FOREACH event IN ARRAY batch LOOP
                -- what comes after an event that failed waits with it
                CONTINUE WHEN event.stream_id = ANY (failed);
                BEGIN
                    CALL pg_temp.send_mail(event);
                EXCEPTION WHEN OTHERS THEN
                    PERFORM daybook.nack('mailer', event.lease, event.position, SQLERRM);
                    failed := failed || event.stream_id;
                END;
            END LOOP;
            PERFORM daybook.ack('mailer', event.lease);
        EXCEPTION WHEN lock_not_available THEN
            -- it took longer than the lease, and another one has the events now
            RAISE NOTICE '%', SQLERRM;
        END;
        COMMIT;
    END LOOP;
END $$;

CALL pg_temp.mailer(make_interval(secs => :'idle'));
