-- Integrity checks of the made-up context BC-005.

-- check: goal_progress_average
-- severity: error
-- repair: UPDATE goals SET progress = counted FROM broken WHERE id = goal_id
-- The progress of a goal is the average of what was reported.
SELECT g.id AS goal_id, g.progress, round(coalesce(avg(p.percent), 0), 2) AS counted FROM goals g
LEFT JOIN goal_progress p ON p.goal_id = g.id
GROUP BY g.id HAVING g.progress <> round(coalesce(avg(p.percent), 0), 2);

-- check: item_count
-- severity: error
-- repair: UPDATE review_templates SET item_count = counted FROM broken WHERE id = template_id
-- item_count of a template is the number of its items.
SELECT t.id AS template_id, t.item_count, count(i."Item No") AS counted FROM review_templates t
LEFT JOIN "Review Items" i ON i.template_id = t.id
GROUP BY t.id HAVING t.item_count <> count(i."Item No");

-- check: weights
-- severity: warning
-- The items of a template weigh 1 in all.
SELECT template_id, sum(weight) AS total FROM "Review Items" GROUP BY template_id HAVING sum(weight) <> 1;

-- check: promoted_in_a_living_team
-- severity: error
-- needs: public.teams
-- Nobody is promoted in a team that is not there.
SELECT p.id AS promotion_id, p.team_id FROM promotions p
WHERE p.deleted_at IS NULL AND NOT EXISTS (SELECT FROM public.teams t WHERE t.id = p.team_id);

-- check: evaluated_by_another
-- severity: error
-- Nobody evaluates a goal of his own.
SELECT e.id AS evaluation_id FROM evaluations e JOIN goals g ON g.id = e.goal_id WHERE g.user_id = e.evaluator_id;
