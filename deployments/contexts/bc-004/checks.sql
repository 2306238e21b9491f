-- Integrity checks of BC-004. Each query returns the offending rows; the columns of the first few are shown as sample, so they
-- are keys and no personal data. Foreign keys, triggers, indexes, views and partitions are checked without a word here: those
-- checks are made from the catalogue. Tables are named with their schema, so that a check runs with no schema of others on its path,
-- where a function or an operator could stand for the one that is meant.

-- check: unit_has_its_parent
-- severity: error
-- The parent of a unit exists.
SELECT u.id AS unit_id, u.parent_unit_id FROM public.organization_units u
WHERE u.parent_unit_id IS NOT NULL AND NOT EXISTS (SELECT FROM public.organization_units p WHERE p.id = u.parent_unit_id);

-- check: organization_root_unit
-- severity: error
-- An organization that has units names one of them as its root, and that one has no parent.
SELECT o.id AS organization_id, o.root_unit_id FROM public.organizations o
LEFT JOIN public.organization_units r ON r.id = o.root_unit_id
WHERE o.deleted_at IS NULL
  AND EXISTS (SELECT FROM public.organization_units u WHERE u.organization_id = o.id AND u.deleted_at IS NULL)
  AND (r.organization_id = o.id AND r.parent_unit_id IS NULL) IS NOT TRUE;

-- check: hierarchy_has_its_units
-- severity: error
-- Both ends of a row of the closure table exist.
SELECT h.id AS hierarchy_id FROM public.organization_hierarchies h
WHERE NOT EXISTS (SELECT FROM public.organization_units u WHERE u.id = h.ancestor_unit_id)
   OR NOT EXISTS (SELECT FROM public.organization_units u WHERE u.id = h.descendant_unit_id);

-- check: unit_member_count
-- severity: error
-- repair: UPDATE public.organization_units SET member_count = counted FROM broken WHERE id = unit_id
-- member_count of a unit is the number of its active members.
SELECT u.id AS unit_id, u.member_count, count(m.id) AS counted FROM public.organization_units u
LEFT JOIN public.organization_members m ON m.unit_id = u.id AND m.status = 'active'
GROUP BY u.id HAVING u.member_count <> count(m.id);

-- check: team_member_count
-- severity: error
-- repair: UPDATE public.teams SET member_count = counted FROM broken WHERE id = team_id
-- member_count of a team is the number of its active members.
SELECT t.id AS team_id, t.member_count, count(m.id) AS counted FROM public.teams t
LEFT JOIN public.team_members m ON m.team_id = t.id AND m.status = 'active'
GROUP BY t.id HAVING t.member_count <> count(m.id);

-- check: team_leader_count
-- severity: error
-- repair: UPDATE public.teams SET leader_count = counted FROM broken WHERE id = team_id
-- leader_count of a team is the number of its active leaders.
SELECT t.id AS team_id, t.leader_count, count(l.id) AS counted FROM public.teams t
LEFT JOIN public.team_leaders l ON l.team_id = t.id AND l.status = 'active'
GROUP BY t.id HAVING t.leader_count <> count(l.id);

-- check: user_allocation
-- severity: error
-- Nobody is allocated to teams for more than 2.0 in all.
SELECT user_id, sum(allocation_rate) AS total FROM public.team_members WHERE status = 'active'
GROUP BY user_id HAVING sum(allocation_rate) > 2.0;

-- check: team_has_leader
-- severity: error
-- An active team has an active leader.
SELECT t.id AS team_id FROM public.teams t
WHERE t.status = 'active' AND NOT EXISTS (SELECT FROM public.team_leaders l WHERE l.team_id = t.id AND l.status = 'active');

-- check: closure_against_tree
-- severity: error
-- repair: WITH gone AS (DELETE FROM public.organization_hierarchies h USING broken b WHERE b.depth_in_tree IS NULL
-- repair: AND (h.ancestor_unit_id, h.descendant_unit_id) = (b.ancestor_unit_id, b.descendant_unit_id)),
-- repair: changed AS (UPDATE public.organization_hierarchies h SET depth = b.depth_in_tree FROM broken b
-- repair: WHERE (h.ancestor_unit_id, h.descendant_unit_id) = (b.ancestor_unit_id, b.descendant_unit_id) AND b.depth_in_tree <> depth)
-- repair: INSERT INTO public.organization_hierarchies (ancestor_unit_id, descendant_unit_id, depth)
-- repair: SELECT ancestor_unit_id, descendant_unit_id, depth_in_tree FROM broken WHERE depth_stored IS NULL
-- The closure table is the tree of units recomputed, pair by pair with its depth.
WITH RECURSIVE tree (ancestor_unit_id, descendant_unit_id, depth) AS (
    SELECT id, id, 0 FROM public.organization_units
    UNION ALL
    SELECT t.ancestor_unit_id, u.id, t.depth + 1
    FROM tree t JOIN public.organization_units u ON u.parent_unit_id = t.descendant_unit_id WHERE t.depth < 100)
SELECT coalesce(t.ancestor_unit_id, h.ancestor_unit_id) AS ancestor_unit_id,
       coalesce(t.descendant_unit_id, h.descendant_unit_id) AS descendant_unit_id, t.depth AS depth_in_tree, h.depth AS depth_stored
FROM tree t FULL JOIN public.organization_hierarchies h USING (ancestor_unit_id, descendant_unit_id)
WHERE t.depth IS DISTINCT FROM h.depth;

-- check: policy_scope_target
-- severity: error
-- What a policy is scoped to exists, as far as it is this context's.
SELECT s.id AS scope_id, s.target_type, s.target_id FROM public.policy_scopes s
WHERE CASE s.target_type
        WHEN 'organization' THEN NOT EXISTS (SELECT FROM public.organizations o WHERE o.id = s.target_id)
        WHEN 'unit' THEN NOT EXISTS (SELECT FROM public.organization_units u WHERE u.id = s.target_id)
        WHEN 'team' THEN NOT EXISTS (SELECT FROM public.teams t WHERE t.id = s.target_id)
        ELSE s.target_type IS DISTINCT FROM 'user' END;

-- check: policy_scope_user
-- severity: error
-- needs: public.users
-- A user to whom a policy is scoped exists.
SELECT s.id AS scope_id, s.target_id FROM public.policy_scopes s
WHERE s.target_type = 'user' AND NOT EXISTS (SELECT FROM public.users u WHERE u.id = s.target_id);

-- check: violation_target
-- severity: error
-- The organization or unit that a violation is about exists.
SELECT v.id AS violation_id, v.detected_at, v.target_type, v.target_id FROM public.policy_violations v
LEFT JOIN public.organizations o ON v.target_type = 'organization' AND o.id = v.target_id
LEFT JOIN public.organization_units u ON v.target_type = 'unit' AND u.id = v.target_id
WHERE v.target_type NOT IN ('user', 'team') AND coalesce(o.id, u.id) IS NULL;

-- check: violation_team
-- severity: warning
-- A team about which a violation is still exists; it may have been cleaned up since.
SELECT v.id AS violation_id, v.detected_at, v.target_id FROM public.policy_violations v
WHERE v.target_type = 'team' AND NOT EXISTS (SELECT FROM public.teams t WHERE t.id = v.target_id);

-- check: violation_user
-- severity: warning
-- needs: public.users
-- A user about whom a violation is still exists; another context may have deleted him since.
SELECT v.id AS violation_id, v.detected_at, v.target_id FROM public.policy_violations v
WHERE v.target_type = 'user' AND NOT EXISTS (SELECT FROM public.users u WHERE u.id = v.target_id);
