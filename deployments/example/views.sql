-- Materialized views, each with the unique index that REFRESH ... CONCURRENTLY needs.

CREATE MATERIALIZED VIEW mv_user_allocation_summary AS
SELECT user_id,
       count(DISTINCT team_id) AS team_count,
       sum(allocation_rate) AS total_allocation,
       2.0 - sum(allocation_rate) AS free_allocation,
       max(updated_at) AS last_updated_at
FROM team_members
WHERE status = 'active'
GROUP BY user_id;
CREATE UNIQUE INDEX mv_user_allocation_summary_user_key ON mv_user_allocation_summary (user_id);

CREATE MATERIALIZED VIEW mv_team_statistics AS
SELECT teams.id AS team_id,
       teams.organization_id,
       teams.name,
       count(members.id) AS active_members,
       (
           SELECT count(*) FROM team_leaders leaders
           WHERE leaders.team_id = teams.id AND leaders.status = 'active'
       ) AS active_leaders,
       COALESCE(sum(members.allocation_rate), 0) AS total_allocation,
       round(avg(members.allocation_rate), 4) AS average_allocation,
       GREATEST(teams.updated_at, max(members.updated_at)) AS last_updated_at
FROM teams
LEFT JOIN team_members members ON members.team_id = teams.id AND members.status = 'active'
GROUP BY teams.id;
CREATE UNIQUE INDEX mv_team_statistics_team_key ON mv_team_statistics (team_id);

CREATE MATERIALIZED VIEW mv_unit_statistics AS
SELECT units.id AS unit_id,
       units.organization_id,
       units.path,
       (
           SELECT count(*) FROM organization_members members
           WHERE members.unit_id = units.id AND members.status = 'active'
       ) AS active_members,
       count(DISTINCT teams.id) AS active_teams,
       COALESCE(sum(members.allocation_rate), 0) AS total_allocation,
       GREATEST(units.updated_at, max(teams.updated_at)) AS last_updated_at
FROM organization_units units
LEFT JOIN teams ON teams.unit_id = units.id AND teams.status = 'active'
LEFT JOIN team_members members ON members.team_id = teams.id AND members.status = 'active'
GROUP BY units.id;
CREATE UNIQUE INDEX mv_unit_statistics_unit_key ON mv_unit_statistics (unit_id);
