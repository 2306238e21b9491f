-- What a violation can be about: a rule and one of its policy's ten targets, with everything that is said about it.

CREATE TEMP TABLE sketch_violation AS
SELECT (row_number() OVER (ORDER BY rules.id, t.x) - 1)::int AS n,
       rules.policy_id, rules.id AS rule_id, t.target_type, pg_temp.key(t.target_type, t.target_n) AS target_id,
       rules.severity, rules.error_message || '（対象: ' || names.target || '）' AS error_message,
       jsonb_build_object(
           'organization', organizations.name,
           'policy', policies.name,
           'target', jsonb_build_object('type', t.target_type, 'name', names.target),
           'rule', rules.name,
           'owner', names.owner,
           'note', pg_temp.text_or_awkward('case', t.policy_n * 16 + t.x, '定期点検で検出')) AS context,
       (pg_temp.pick('bound', t.policy_n * 16 + t.x, 20) + 1) * 0.1 AS bound,
       pg_temp.key('user', names.owner_n) AS resolver_id,
       ARRAY[names.owner || 'が対象者へ連絡し是正を確認。',
             '配属を変更して解消。',
             '責任者の承認を得て例外として登録。',
             pg_temp.text_or_awkward('remedy', t.policy_n * 16 + t.x, '次回の定期点検で是正を確認。')] AS remedies
FROM sketch_target t
JOIN governance_policies policies ON policies.id = pg_temp.key('policy', t.policy_n)
JOIN governance_rules rules ON rules.policy_id = policies.id
JOIN organizations ON organizations.id = pg_temp.key('organization', t.i)
LEFT JOIN sketch_unit u ON t.target_type = 'unit' AND u.n = t.target_n
LEFT JOIN sketch_team ON t.target_type = 'team' AND sketch_team.n = t.target_n
CROSS JOIN LATERAL (
    SELECT (t.i - 1) * 80 + 1 + t.x AS owner_n,
           pg_temp.person((t.i - 1) * 80 + 1 + t.x) AS owner,
           CASE t.target_type
               WHEN 'organization' THEN organizations.name
               WHEN 'unit' THEN u.name
               WHEN 'team' THEN sketch_team.word
               ELSE pg_temp.person(t.target_n) END AS target
) AS names
ORDER BY rules.id, t.x;
ALTER TABLE sketch_violation ADD PRIMARY KEY (n);
ANALYZE sketch_violation;
