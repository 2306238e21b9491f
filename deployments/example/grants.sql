-- Rights of the application and a few comments: both belong to the schema and have to survive a restore.

GRANT SELECT, INSERT, UPDATE, DELETE ON
    organizations, organization_units, organization_hierarchies, organization_members,
    teams, team_members, team_leaders,
    governance_policies, governance_rules, policy_scopes, policy_violations
    TO consulting_app;
GRANT SELECT (id, name, status) ON users TO consulting_app;
GRANT SELECT ON mv_user_allocation_summary, mv_team_statistics, mv_unit_statistics TO consulting_app;
REVOKE EXECUTE ON FUNCTION rebuild_hierarchy(uuid, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rebuild_hierarchy(uuid, uuid) TO consulting_app;

COMMENT ON TABLE users IS '利用者（BC-003 が管理、BC-004 は参照のみ）';
COMMENT ON TABLE organizations IS '組織';
COMMENT ON TABLE organization_hierarchies IS '組織単位の閉包テーブル。すべての祖先と子孫の組を一行ずつ持つ';
COMMENT ON TABLE policy_violations IS 'ポリシー違反。detected_at の年ごとにパーティション';
COMMENT ON COLUMN team_members.allocation_rate IS '稼働率。1.00 が常勤、一人の合計は 2.00 まで';
COMMENT ON COLUMN policy_violations.context IS E'検出時の状況\n例: {"user": "佐藤 太郎"}';
COMMENT ON INDEX team_members_active_key IS '在籍中の重複を防ぐ';
COMMENT ON CONSTRAINT organizations_root_unit_fkey ON organizations IS '組織単位との循環参照';
COMMENT ON CONSTRAINT team_members_user_fkey ON team_members IS 'BC-003 の利用者';
COMMENT ON FUNCTION keep_last_leader() IS '最後のリーダーを外させない';
COMMENT ON TRIGGER team_leaders_keep_last ON team_leaders IS '有効なチームには有効なリーダーが必要';
COMMENT ON MATERIALIZED VIEW mv_unit_statistics IS '組織単位ごとの人数・チーム数・稼働率';
