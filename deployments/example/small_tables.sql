-- The rows of users and of the ten small tables. The setting example.organizations says how many organizations;
-- each has 50 units, 80 users, 100 memberships, 5 teams and one policy of 5 rules and 10 scopes.
-- What several tables have to agree on is decided first, in temporary tables. There n numbers the things of a kind,
-- i the organizations, and k, j, seat, slot and x count within their parent.

CREATE TEMP TABLE sketch_organization AS
SELECT i,
       pg_temp.key('organization', i) AS id,
       '株式会社' || pg_temp.company(i + pg_temp.pick('first company', 0, 240)) AS name,
       gone,
       pg_temp.instant('organization created', i, '2019-01-07', '2019-04-01') AS created_at,
       CASE WHEN gone THEN pg_temp.instant('organization deleted', i, '2021-04-01',
           CASE WHEN i % 2 = 0 THEN '2022-10-01' ELSE '2026-06-30' END::timestamp) END AS deleted_at
FROM (
    SELECT i, i = organizations OR i % 40 = 0 AS gone
    FROM (SELECT current_setting('example.organizations')::int AS organizations) AS setting,
         generate_series(1, organizations) AS i
) AS numbered
ORDER BY i;

-- Units per level 0 to 10: few at the top, most at the bottom, so that the closure has about nine rows a unit.
CREATE TEMP TABLE sketch_unit AS
WITH RECURSIVE level_width AS (
    SELECT level - 1 AS level, width, sum(width) OVER (ORDER BY level)::int - width AS first_k
    FROM unnest(ARRAY[1, 1, 1, 1, 1, 2, 2, 3, 7, 14, 17]) WITH ORDINALITY AS widths (width, level)
), place AS (
    SELECT here.level::int, here.first_k + offset_k AS k, above.first_k AS above_first_k, above.width AS above_width
    FROM level_width here
    CROSS JOIN LATERAL generate_series(0, here.width - 1) AS offset_k
    LEFT JOIN level_width above ON above.level = here.level - 1
), numbered AS (
    SELECT o.i, p.k, p.level, (o.i - 1) * 50 + p.k AS n,
           p.above_first_k + pg_temp.pick('unit parent', (o.i - 1) * 50 + p.k, p.above_width) AS parent_k,
           o.gone OR (p.k = 49 AND o.i % 9 = 1) AS gone,
           p.k = 48 AND o.i % 7 = 1 AS idle,
           o.deleted_at AS organization_deleted_at
    FROM sketch_organization o CROSS JOIN place p
), named AS (
    SELECT *, pg_temp.choose('unit', n, pg_temp.unit_words(level))
              || CASE WHEN level >= 7 THEN (k + 1)::text ELSE '' END AS name
    FROM numbered
), placed AS (
    SELECT i, k, '/' || name AS path FROM named WHERE level = 0
    UNION ALL
    SELECT below.i, below.k, placed.path || '/' || below.name
    FROM placed JOIN named below ON below.i = placed.i AND below.parent_k = placed.k
)
SELECT named.i, named.k, n, level, parent_k, gone, idle, name, path,
       pg_temp.key('unit', n) AS id,
       pg_temp.instant('unit created', n, '2019-04-01', '2019-04-02') AS created_at,
       CASE WHEN gone THEN COALESCE(organization_deleted_at,
           pg_temp.instant('unit deleted', n, '2021-04-01', '2026-06-30')) END AS deleted_at
FROM named JOIN placed ON placed.i = named.i AND placed.k = named.k
ORDER BY n;
ALTER TABLE sketch_unit ADD PRIMARY KEY (i, k);
ANALYZE sketch_unit;

INSERT INTO organizations
SELECT o.id, o.name, 'ORG-' || lpad(o.i::text, 4, '0'),
       CASE WHEN o.i = 1 THEN 'headquarters'
            ELSE pg_temp.choose('organization type', o.i, ARRAY['branch', 'division', 'subsidiary', 'affiliate']) END,
       pg_temp.text_or_awkward('organization', o.i, o.name || 'の組織情報。' || pg_temp.person(o.i * 80 - 79) || 'が代表を務める。'),
       CASE WHEN o.gone OR o.i % 17 = 5 THEN 'inactive' WHEN o.i % 29 = 7 THEN 'suspended' ELSE 'active' END,
       pg_temp.key('unit', (o.i - 1) * 50),
       o.created_at,
       COALESCE(o.deleted_at, pg_temp.instant('organization updated', o.i, '2020-01-01', '2026-10-01')),
       o.deleted_at
FROM sketch_organization o
ORDER BY o.i;

INSERT INTO users
SELECT pg_temp.key('user', n),
       'user' || lpad(n::text, 5, '0') || '@example.co.jp',
       pg_temp.person(n),
       CASE WHEN n % 19 = 11 THEN 'inactive' ELSE 'active' END,
       pg_temp.instant('user created', n, '2019-01-07', '2019-04-01'),
       pg_temp.instant('user updated', n, '2019-04-01', '2026-10-01')
FROM generate_series(1, current_setting('example.organizations')::int * 80) AS n
ORDER BY n;

-- Each user's first membership, then twenty second ones: posts held at once, or the one before a transfer.
WITH place AS (
    SELECT o.i, entry,
           CASE WHEN entry < 80 THEN entry ELSE (entry - 80) * 4 END AS seat,
           (o.i - 1) * 100 + entry AS n
    FROM sketch_organization o CROSS JOIN generate_series(0, 99) AS entry
), first_unit AS (
    SELECT *, CASE WHEN seat = 0 THEN 0 ELSE pg_temp.pick('member unit', (i - 1) * 100 + seat, 50) END AS first_k
    FROM place
), chosen AS (
    SELECT *, CASE WHEN entry < 80 THEN first_k ELSE (first_k + 1 + pg_temp.pick('second unit', n, 49)) % 50 END AS k
    FROM first_unit
), timed AS (
    SELECT c.n, c.seat, c.i, u.id AS unit_id, u.deleted_at,
           u.gone OR u.idle OR pg_temp.pick('member left', c.n, 100) < 11 AS inactive,
           pg_temp.instant('member joined', c.n, '2019-04-02',
               CASE WHEN u.gone THEN '2021-03-01' ELSE '2025-09-30' END::timestamp) AS joined_at
    FROM chosen c JOIN sketch_unit u ON u.i = c.i AND u.k = c.k
), dated AS (
    SELECT *, CASE WHEN inactive THEN pg_temp.instant('member left at', n, joined_at + interval '1 day',
                   COALESCE(deleted_at, '2026-10-01')) END AS left_at
    FROM timed
)
INSERT INTO organization_members
SELECT pg_temp.key('organization member', n), pg_temp.key('organization', i), unit_id,
       pg_temp.key('user', (i - 1) * 80 + seat + 1),
       CASE WHEN seat = 0 THEN '代表' ELSE
           pg_temp.choose('role in unit', n, ARRAY['部長', '課長', '係長', '主任', '担当', '担当', '専門職', NULL]) END,
       CASE WHEN inactive THEN 'inactive' ELSE 'active' END,
       joined_at, left_at, joined_at,
       COALESCE(left_at, pg_temp.instant('member updated', n, joined_at, '2026-10-01'))
FROM dated
ORDER BY n;

INSERT INTO organization_units
SELECT u.id, pg_temp.key('organization', u.i), u.name, above.id, u.level, u.path,
       CASE WHEN u.level = 0 THEN 'root' WHEN u.level <= 3 THEN 'division' WHEN u.level <= 6 THEN 'department'
            WHEN u.level <= 8 THEN 'section' ELSE 'team' END,
       CASE WHEN u.n % 3 = 0 THEN pg_temp.text_or_awkward('unit', u.n, u.name || 'の業務全般を担当する。') END,
       COALESCE(members.active, 0),
       CASE WHEN u.gone OR u.idle THEN 'inactive' ELSE 'active' END,
       u.created_at,
       COALESCE(u.deleted_at, pg_temp.instant('unit updated', u.n, '2019-05-01', '2026-10-01')),
       u.deleted_at
FROM sketch_unit u
LEFT JOIN sketch_unit above ON above.i = u.i AND above.k = u.parent_k
LEFT JOIN (
    SELECT unit_id, count(*)::int AS active FROM organization_members WHERE status = 'active' GROUP BY unit_id
) AS members ON members.unit_id = u.id
ORDER BY u.n;

WITH RECURSIVE closure AS (
    SELECT i, k, k AS ancestor_k, n, name::text AS path, created_at, 0 AS depth, parent_k AS next_k
    FROM sketch_unit
    UNION ALL
    SELECT c.i, c.k, above.k, c.n, above.name || '/' || c.path, c.created_at, c.depth + 1, above.parent_k
    FROM closure c JOIN sketch_unit above ON above.i = c.i AND above.k = c.next_k
)
INSERT INTO organization_hierarchies
SELECT pg_temp.key('hierarchy', n * 16 + depth), pg_temp.key('unit', (i - 1) * 50 + ancestor_k), pg_temp.key('unit', n),
       depth, path, created_at
FROM closure
ORDER BY n, depth;

CREATE TEMP TABLE sketch_team AS
SELECT t.i, t.j, t.n, t.k, t.closed,
       pg_temp.key('team', t.n) AS id,
       (pg_temp.team_words())[1 + (pg_temp.pick('team word', t.i, 20) + t.j * 3) % 20] AS word,
       t.started_at,
       CASE WHEN t.closed THEN COALESCE(t.organization_deleted_at - interval '1 hour',
           t.stopped_at) END AS closed_at,
       CASE WHEN t.gone THEN COALESCE(t.organization_deleted_at, t.stopped_at + interval '2 days') END AS deleted_at
FROM (
    SELECT o.i, j, n, pg_temp.pick('team unit', n, 41) + 7 AS k,
           o.gone OR n % 25 = 7 AS gone,
           o.gone OR n % 25 = 7 OR n % 9 = 4 AS closed,
           pg_temp.instant('team started', n, '2019-06-03', '2020-12-28') AS started_at,
           pg_temp.instant('team stopped', n, '2021-04-01', '2026-09-30') AS stopped_at,
           o.deleted_at AS organization_deleted_at
    FROM sketch_organization o
    CROSS JOIN generate_series(1, 5) AS j
    CROSS JOIN LATERAL (SELECT (o.i - 1) * 5 + j AS n) AS numbered
) AS t
ORDER BY t.n;
ALTER TABLE sketch_team ADD PRIMARY KEY (n);

-- Neighbouring teams of an organization share two people, nobody is in more than two: no total is above 2.0.
-- Slot 6 is somebody of the team who had left it before and came back.
CREATE TEMP TABLE sketch_team_member AS
WITH place AS (
    SELECT t.n AS team_n, t.i, slot, t.n * 8 + slot AS n, t.closed, t.closed_at, t.started_at,
           (t.j * 3 + CASE WHEN slot = 6 THEN 2 ELSE slot END + pg_temp.pick('team seat', t.i, 80)) % 80 AS seat
    FROM sketch_team t CROSS JOIN generate_series(1, 6) AS slot
    WHERE slot < 6 OR t.n % 11 = 3
), timed AS (
    SELECT *, closed OR slot = 6 OR (slot >= 3 AND pg_temp.pick('team member left', n, 100) < 20) AS inactive,
           CASE WHEN slot = 6 THEN started_at
                ELSE pg_temp.instant('team member joined', n, started_at, '2021-03-01') END AS joined_at
    FROM place
)
SELECT *, pg_temp.key('team member', n) AS id, pg_temp.key('user', (i - 1) * 80 + seat + 1) AS user_id,
       CASE WHEN slot = 6 THEN started_at + interval '15 days'
            WHEN inactive AND slot <= 2 THEN closed_at
            WHEN inactive THEN pg_temp.instant('team member left at', n, joined_at + interval '1 day',
                COALESCE(closed_at, '2026-10-01')) END AS left_at
FROM timed
ORDER BY n;

INSERT INTO team_members
SELECT id, pg_temp.key('team', team_n), user_id,
       pg_temp.choose('allocation', n, ARRAY['0.10', '0.20', '0.25', '0.30', '0.50', '0.50', '0.80', '1.00', '1.00'])
           ::numeric(4, 2),
       CASE slot WHEN 1 THEN 'リーダー' ELSE
           pg_temp.choose('team role', n, ARRAY['設計担当', '開発担当', '調査担当', '業務担当', '事務局', 'アドバイザー', NULL]) END,
       CASE WHEN inactive THEN 'inactive' ELSE 'active' END,
       joined_at::date, left_at::date, joined_at, left_at, joined_at,
       COALESCE(left_at, pg_temp.instant('team member updated', n, joined_at, '2026-10-01'))
FROM sketch_team_member
ORDER BY n;

-- Slot 1 leads as long as the team is active; some teams have a second leader, some had another one before.
INSERT INTO team_leaders
SELECT pg_temp.key('team leader', n), pg_temp.key('team', team_n), id, user_id,
       CASE WHEN led_before OR closed THEN 'inactive' ELSE 'active' END,
       joined_at,
       CASE WHEN led_before THEN pg_temp.instant('leader removed', n, joined_at + interval '12 hours',
                COALESCE(left_at, '2026-09-30'))
            WHEN closed THEN closed_at END,
       joined_at
FROM (SELECT *, slot = 4 AS led_before FROM sketch_team_member) AS m
WHERE slot = 1 OR (slot = 2 AND team_n % 15 = 1) OR (slot = 4 AND team_n % 8 = 5)
ORDER BY n;

INSERT INTO teams
SELECT t.id, pg_temp.key('organization', t.i), u.id,
       t.word || CASE t.n % 3 WHEN 0 THEN 'チーム' WHEN 1 THEN 'プロジェクト' ELSE 'タスクフォース' END,
       CASE t.n % 3 WHEN 0 THEN 'permanent' WHEN 1 THEN 'project' ELSE 'task_force' END,
       pg_temp.text_or_awkward('team', t.n, t.word || 'に関する調査、計画および実行。'),
       CASE WHEN t.closed THEN 'inactive' ELSE 'active' END,
       COALESCE(members.active, 0), COALESCE(leaders.active, 0),
       t.started_at::date, t.closed_at::date, t.started_at,
       COALESCE(t.deleted_at, t.closed_at, pg_temp.instant('team updated', t.n, t.started_at, '2026-10-01')),
       t.deleted_at
FROM sketch_team t
JOIN sketch_unit u ON u.i = t.i AND u.k = t.k
LEFT JOIN (
    SELECT team_id, count(*)::int AS active FROM team_members WHERE status = 'active' GROUP BY team_id
) AS members ON members.team_id = t.id
LEFT JOIN (
    SELECT team_id, count(*)::int AS active FROM team_leaders WHERE status = 'active' GROUP BY team_id
) AS leaders ON leaders.team_id = t.id
ORDER BY t.n;

-- One policy a number; every seventh belongs to the organization before, which then has two.
CREATE TEMP TABLE sketch_policy AS
SELECT p.n, p.i, p.type_number, p.gone, p.organization_deleted_at,
       pg_temp.key('policy', p.n) AS id,
       pg_temp.instant('policy created', p.n, '2019-04-01', '2020-12-01') AS created_at
FROM (
    SELECT o.i AS n, CASE WHEN o.i % 7 = 3 THEN o.i - 1 ELSE o.i END AS i, 1 + o.i % 5 AS type_number,
           o.gone OR o.i % 33 = 20 AS gone, o.deleted_at AS organization_deleted_at
    FROM sketch_organization o
) AS p
ORDER BY p.n;

INSERT INTO governance_policies
SELECT p.id, pg_temp.key('organization', p.i),
       (ARRAY['稼働率管理', '組織階層', 'アクセス権限', '承認手続', '法令遵守'])[p.type_number] || 'ポリシー',
       pg_temp.text_or_awkward('policy', p.n, '本ポリシーは' || o.name || 'に属するすべての組織単位に適用する。'),
       (ARRAY['allocation', 'hierarchy', 'access_control', 'approval', 'compliance'])[p.type_number],
       (pg_temp.pick('priority', p.n, 101)) * 10,
       pg_temp.choose('enforcement', p.n, ARRAY['strict', 'warning', 'audit']),
       CASE WHEN p.gone OR p.n % 13 = 6 THEN 'inactive' WHEN p.n % 11 = 9 THEN 'draft' ELSE 'active' END,
       p.created_at::date + 30,
       CASE WHEN p.n % 4 = 2 THEN date '2027-03-31' + pg_temp.pick('policy until', p.n, 1000) END,
       p.created_at,
       CASE WHEN p.gone THEN pg_temp.instant('policy deleted', p.n, '2026-07-01', '2026-10-01')
            ELSE pg_temp.instant('policy updated', p.n, p.created_at, '2026-10-01') END,
       CASE WHEN p.gone THEN pg_temp.instant('policy deleted', p.n, '2026-07-01', '2026-10-01') END
FROM sketch_policy p JOIN sketch_organization o ON o.i = p.i
ORDER BY p.n;

CREATE TEMP TABLE sketch_rule (type_number int, j int, name text, condition text, message text);
INSERT INTO sketch_rule VALUES
    (1, 1, '合計稼働率の上限', 'sum(allocation_rate) <= 2.0', '合計稼働率が上限を超えています。配属先の責任者と調整してください。'),
    (1, 2, '単独チームの稼働率', 'allocation_rate <= 1.0', '一つのチームに対する稼働率が上限を超えています。稼働計画を見直してください。'),
    (1, 3, '最低稼働率', 'allocation_rate >= 0.1', '稼働率が下限を下回っています。配属の必要性を確認してください。'),
    (1, 4, '兼務チーム数', 'count(team_id) <= 3', '兼務しているチームの数が上限を超えています。兼務を解消してください。'),
    (1, 5, '長期兼務', E'now() - joined_at < interval ''2 years''', '兼務の期間が規定の年数を超えています。継続の承認を取得してください。'),
    (2, 1, '階層の深さ', 'hierarchy_level <= 10', '組織の階層が上限より深くなっています。上位の組織単位へ統合してください。'),
    (2, 2, '最少人数', 'member_count >= 3', '組織単位の人数が下限を下回っています。統合または増員を検討してください。'),
    (2, 3, '最大人数', 'member_count <= 80', '組織単位の人数が上限を超えています。分割を検討してください。'),
    (2, 4, '責任者の有無', E'exists(role_in_unit = ''課長'')', '組織単位に責任者が任命されていません。速やかに任命してください。'),
    (2, 5, '廃止単位の残留', E'status = ''active'' or member_count = 0', '廃止された組織単位に在籍者が残っています。異動手続を行ってください。'),
    (3, 1, '管理者権限', E'role <> ''admin'' or approved', '承認のない管理者権限が付与されています。直ちに権限を見直してください。'),
    (3, 2, '退職者の権限', E'users.status = ''active''', '退職者の権限が残っています。アカウントを停止してください。'),
    (3, 3, '部門外参照', 'unit_id in (descendants)', '所属外の部門の情報が参照されています。参照理由を確認してください。'),
    (3, 4, '共有アカウント', 'count(session) <= 1', '同一アカウントが複数の場所から同時に利用されています。利用者を確認してください。'),
    (3, 5, '権限棚卸し', E'reviewed_at > now() - interval ''180 days''', '権限の棚卸しが期限までに実施されていません。棚卸しを実施してください。'),
    (4, 1, '二重承認', 'count(distinct approver) >= 2', '承認者が不足しています。二名以上の承認を取得してください。'),
    (4, 2, '自己承認', 'approver <> requester', '申請者自身による承認が行われています。別の承認者へ回付してください。'),
    (4, 3, '承認期限', E'approved_at - requested_at < interval ''5 days''', '承認が期限内に完了していません。承認者へ督促してください。'),
    (4, 4, '事後承認', 'approved_at <= started_at', '業務の開始後に承認が行われています。経緯を報告してください。'),
    (4, 5, '代理承認', 'delegate is null or delegation_valid', '有効期限の切れた代理権限による承認です。委任状を更新してください。'),
    (5, 1, '労働時間', 'hours_per_month <= 45', '時間外労働が月間の上限を超えています。業務量を調整してください。'),
    (5, 2, '個人情報', 'not contains_personal_data or encrypted', '暗号化されていない個人情報が検出されました。保管場所を確認してください。'),
    (5, 3, '利益相反', 'not conflict_of_interest', '利益相反の可能性がある兼務です。法務部門へ届け出てください。'),
    (5, 4, '研修受講', E'training_completed_at > now() - interval ''1 year''', '法定研修の受講期限を過ぎています。速やかに受講してください。'),
    (5, 5, '記録保存', 'retention_years >= 3', '記録の保存期間が規定を満たしていません。保存設定を変更してください。');

INSERT INTO governance_rules
SELECT pg_temp.key('rule', p.n * 8 + r.j), p.id, r.name,
       pg_temp.text_or_awkward('rule', p.n * 8 + r.j, r.name || 'に関する規則。根拠: 社内規程第' || (p.n + r.j) || '条'),
       r.condition, r.message,
       pg_temp.choose('severity', p.n * 8 + r.j, ARRAY['error', 'error', 'warning', 'warning', 'warning', 'info']),
       CASE WHEN p.gone OR pg_temp.pick('rule off', p.n * 8 + r.j, 15) = 0 THEN 'inactive' ELSE 'active' END,
       p.created_at, pg_temp.instant('rule updated', p.n * 8 + r.j, p.created_at, '2026-10-01')
FROM sketch_policy p JOIN sketch_rule r ON r.type_number = p.type_number
ORDER BY p.n, r.j;

-- Ten targets a policy: the organization, four units, three teams, two users; the steps keep them apart.
CREATE TEMP TABLE sketch_target AS
SELECT p.n AS policy_n, p.i, x,
       CASE WHEN x = 0 THEN 'organization' WHEN x <= 4 THEN 'unit'
            WHEN x <= 7 THEN 'team' ELSE 'user' END AS target_type,
       CASE WHEN x = 0 THEN p.i
            WHEN x <= 4 THEN (p.i - 1) * 50 + (pg_temp.pick('scope', p.n, 50) + x * 11) % 50
            WHEN x <= 7 THEN (p.i - 1) * 5 + 1 + (pg_temp.pick('scope', p.n, 5) + x) % 5
            ELSE (p.i - 1) * 80 + 1 + (pg_temp.pick('scope', p.n, 80) + x * 17) % 80 END AS target_n
FROM sketch_policy p CROSS JOIN generate_series(0, 9) AS x
ORDER BY p.n, x;

INSERT INTO policy_scopes
SELECT pg_temp.key('scope', t.policy_n * 16 + t.x), p.id, t.target_type, pg_temp.key(t.target_type, t.target_n),
       t.target_type IN ('organization', 'unit') AND t.x % 2 = 0,
       CASE WHEN p.gone OR pg_temp.pick('scope off', t.policy_n * 16 + t.x, 12) = 0 THEN 'inactive' ELSE 'active' END,
       p.created_at, pg_temp.instant('scope updated', t.policy_n * 16 + t.x, p.created_at, '2026-10-01')
FROM sketch_target t JOIN sketch_policy p ON p.n = t.policy_n
ORDER BY t.policy_n, t.x;
