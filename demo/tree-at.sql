-- The tree folded from the events up to a commit, psql variable :commit.
COPY (
    WITH history AS MATERIALIZED (
        SELECT position, stream_id, type, data, metadata
        FROM daybook.read_all(event_tables => '{git_history}', max_events => 2147483647)
    ), last AS (
        SELECT DISTINCT ON (stream_id) substr(stream_id, 6) AS path, type, data
        FROM history
        WHERE position <= (SELECT max(position) FROM history WHERE metadata->>'commit' = :'commit')
        ORDER BY stream_id, position DESC
    )
    SELECT path, data->>'mode', data->>'object' FROM last WHERE type IN ('FileAdded', 'FileModified')
) TO STDOUT;
