-- Events of git: a stream for each path, 'file-' and the path.  The worker keeps
-- two tables from them: the files of the newest commit, and what each author changed.
SELECT daybook.create_event_table('git_history');

CREATE TABLE current_file (
    path text PRIMARY KEY,
    mode text NOT NULL,
    object text NOT NULL
);
CREATE TABLE author_changes (
    author text PRIMARY KEY,
    added bigint NOT NULL,
    modified bigint NOT NULL,
    renamed bigint NOT NULL,
    deleted bigint NOT NULL
);

SELECT daybook.create_projection('current_file', '{git_history}', $$
    WITH last AS (
        SELECT DISTINCT ON (stream_id) substr(stream_id, 6) AS path, type, data
        FROM new_events
        ORDER BY stream_id, version DESC
    ), gone AS (
        DELETE FROM current_file
        USING last
        WHERE current_file.path = last.path AND last.type IN ('FileDeleted', 'FileRenamed')
    )
    INSERT INTO current_file
    SELECT path, data->>'mode', data->>'object' FROM last WHERE type IN ('FileAdded', 'FileModified')
    ON CONFLICT (path) DO UPDATE SET mode = excluded.mode, object = excluded.object
$$, tables => '{current_file}');

SELECT daybook.create_projection('author_changes', '{git_history}', $$
    INSERT INTO author_changes AS a
    SELECT metadata->>'author',
           count(*) FILTER (WHERE type = 'FileAdded' AND NOT data ? 'from'),
           count(*) FILTER (WHERE type = 'FileModified'),
           count(*) FILTER (WHERE type = 'FileRenamed'),
           count(*) FILTER (WHERE type = 'FileDeleted')
    FROM new_events
    GROUP BY 1
    ON CONFLICT (author) DO UPDATE SET
        added = a.added + excluded.added,
        modified = a.modified + excluded.modified,
        renamed = a.renamed + excluded.renamed,
        deleted = a.deleted + excluded.deleted
$$, tables => '{author_changes}');
