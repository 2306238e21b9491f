-- The violations of one year, in the order of their detection: a template, filled in by Year.
-- Needs sketch_violation. Nothing is resolved later than "today"; what would be is still active.
-- OFFSET 0 keeps a subquery as it is: the hash is computed once a row, and the rows stay in the order of n.

INSERT INTO {leaf}
SELECT pg_temp.as_key(d.hash), v.policy_id, v.rule_id, v.target_type, v.target_id, v.severity,
       v.error_message || ' [' || reverse(substr(d.hash, 1, 20)) || ']',
       v.context || jsonb_build_object(
           'measured', v.bound + (pg_temp.as_number(d.hash, 20) % 100) * 0.01,
           'job', 'nightly-' || to_char(d.detected_at, 'YYYYMMDD'),
           'evidence', pg_temp.as_number(d.hash, 9) % 1000),
       r.status, d.detected_at, r.resolved_at,
       CASE WHEN r.status = 'resolved' THEN v.resolver_id END,
       CASE r.status
           WHEN 'resolved' THEN v.remedies[1 + pg_temp.as_number(d.hash, 3) % cardinality(v.remedies)]
           WHEN 'dismissed' THEN '対象外と判断したため取り下げ。' END,
       d.detected_at + interval '1 millisecond' * (pg_temp.as_number(d.hash, 25) % 50)
FROM generate_series(1::bigint, {violations}) AS n
CROSS JOIN LATERAL (
    SELECT hash,
           {first_instant}::timestamp + interval '1 microsecond'
               * ((n - 1) * {step_microseconds} + pg_temp.as_number(hash, 13) % {step_microseconds}) AS detected_at
    FROM (SELECT pg_temp.digest('violation', {year} * 100000000::bigint + n) AS hash OFFSET 0) AS hashed
    OFFSET 0
) AS d
CROSS JOIN LATERAL (
    SELECT * FROM sketch_violation s
    -- The product of two even distributions: some cases come back often, most seldom.
    WHERE s.n = (pg_temp.as_number(d.hash, 1)::bigint * pg_temp.as_number(d.hash, 21) >> 28)
                * (SELECT count(*) FROM sketch_violation) >> 28
    OFFSET 0
) AS v
CROSS JOIN LATERAL (
    SELECT CASE WHEN wanted = 'active' OR resolved_at >= {today} THEN 'active' ELSE wanted END AS status,
           CASE WHEN wanted <> 'active' AND resolved_at < {today} THEN resolved_at END AS resolved_at
    FROM (
        SELECT CASE WHEN dice < 3 THEN 'active' WHEN dice < 11 THEN 'dismissed' ELSE 'resolved' END AS wanted,
               d.detected_at + interval '1 minute' * (60 + pg_temp.as_number(d.hash, 17) % 86400) AS resolved_at
        FROM (SELECT pg_temp.as_number(d.hash, 5) % 100 AS dice OFFSET 0) AS thrown
        OFFSET 0
    ) AS outcome
    OFFSET 0
) AS r;
