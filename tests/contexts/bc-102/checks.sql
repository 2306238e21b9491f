-- check: members_follow_each_other
-- severity: warning
-- Members of a way have different places.
SELECT id, sequence_id FROM "Karte"."way members now" GROUP BY 1, 2 HAVING count(*) > 1;
