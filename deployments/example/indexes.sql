-- Indexes beside those of the primary keys and unique constraints; with them 90 on the eleven tables.

CREATE INDEX users_status_idx ON users (status);

CREATE INDEX organizations_name_idx ON organizations (name);
CREATE INDEX organizations_type_idx ON organizations (type);
CREATE INDEX organizations_status_idx ON organizations (status);
CREATE INDEX organizations_root_unit_idx ON organizations (root_unit_id);
CREATE INDEX organizations_created_idx ON organizations (created_at);
CREATE INDEX organizations_deleted_idx ON organizations (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE INDEX organization_units_organization_idx ON organization_units (organization_id);
CREATE INDEX organization_units_parent_idx ON organization_units (parent_unit_id);
CREATE INDEX organization_units_level_idx ON organization_units (organization_id, hierarchy_level);
CREATE INDEX organization_units_name_idx ON organization_units (name);
CREATE INDEX organization_units_path_prefix_idx ON organization_units (path varchar_pattern_ops);
CREATE INDEX organization_units_path_words_idx ON organization_units USING gin (to_tsvector('simple', path));
CREATE INDEX organization_units_type_idx ON organization_units (unit_type);
CREATE INDEX organization_units_status_idx ON organization_units (status);
CREATE INDEX organization_units_deleted_idx ON organization_units (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE INDEX organization_hierarchies_ancestor_idx ON organization_hierarchies (ancestor_unit_id, depth);
CREATE INDEX organization_hierarchies_descendant_idx ON organization_hierarchies (descendant_unit_id, depth);
CREATE INDEX organization_hierarchies_depth_idx ON organization_hierarchies (depth);
CREATE INDEX organization_hierarchies_created_idx ON organization_hierarchies (created_at);

CREATE UNIQUE INDEX organization_members_active_key ON organization_members (organization_id, unit_id, user_id)
    WHERE status = 'active';
CREATE INDEX organization_members_organization_idx ON organization_members (organization_id);
CREATE INDEX organization_members_unit_idx ON organization_members (unit_id);
CREATE INDEX organization_members_unit_status_idx ON organization_members (unit_id, status);
CREATE INDEX organization_members_user_idx ON organization_members (user_id);
CREATE INDEX organization_members_status_idx ON organization_members (status);
CREATE INDEX organization_members_joined_idx ON organization_members (joined_at);
CREATE INDEX organization_members_left_idx ON organization_members (left_at) WHERE left_at IS NOT NULL;

CREATE UNIQUE INDEX teams_active_key ON teams (organization_id, name) WHERE status = 'active';
CREATE INDEX teams_organization_idx ON teams (organization_id);
CREATE INDEX teams_unit_idx ON teams (unit_id);
CREATE INDEX teams_type_idx ON teams (team_type);
CREATE INDEX teams_status_idx ON teams (status);
CREATE INDEX teams_dates_idx ON teams (start_date, end_date);
CREATE INDEX teams_deleted_idx ON teams (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE UNIQUE INDEX team_members_active_key ON team_members (team_id, user_id) WHERE status = 'active';
CREATE INDEX team_members_team_idx ON team_members (team_id);
CREATE INDEX team_members_team_status_idx ON team_members (team_id, status);
CREATE INDEX team_members_user_idx ON team_members (user_id);
CREATE INDEX team_members_allocation_idx ON team_members (user_id) INCLUDE (allocation_rate) WHERE status = 'active';
CREATE INDEX team_members_status_idx ON team_members (status);
CREATE INDEX team_members_joined_idx ON team_members (joined_at);
CREATE INDEX team_members_left_idx ON team_members (left_at) WHERE left_at IS NOT NULL;

CREATE UNIQUE INDEX team_leaders_active_key ON team_leaders (team_id, member_id) WHERE status = 'active';
CREATE INDEX team_leaders_team_idx ON team_leaders (team_id);
CREATE INDEX team_leaders_member_idx ON team_leaders (member_id);
CREATE INDEX team_leaders_user_idx ON team_leaders (user_id);
CREATE INDEX team_leaders_status_idx ON team_leaders (status);
CREATE INDEX team_leaders_assigned_idx ON team_leaders (assigned_at);
CREATE INDEX team_leaders_removed_idx ON team_leaders (removed_at) WHERE removed_at IS NOT NULL;

CREATE UNIQUE INDEX governance_policies_active_key ON governance_policies (organization_id, name)
    WHERE status = 'active';
CREATE INDEX governance_policies_organization_idx ON governance_policies (organization_id);
CREATE INDEX governance_policies_type_idx ON governance_policies (policy_type);
CREATE INDEX governance_policies_priority_idx ON governance_policies (priority DESC);
CREATE INDEX governance_policies_level_idx ON governance_policies (enforcement_level);
CREATE INDEX governance_policies_status_idx ON governance_policies (status);
CREATE INDEX governance_policies_dates_idx ON governance_policies (effective_from, effective_until);
CREATE INDEX governance_policies_deleted_idx ON governance_policies (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE INDEX governance_rules_policy_idx ON governance_rules (policy_id);
CREATE INDEX governance_rules_policy_status_idx ON governance_rules (policy_id, status);
CREATE INDEX governance_rules_name_idx ON governance_rules (lower(name));
CREATE INDEX governance_rules_severity_idx ON governance_rules (severity);
CREATE INDEX governance_rules_status_idx ON governance_rules (status);

CREATE INDEX policy_scopes_target_idx ON policy_scopes (target_type, target_id);
CREATE INDEX policy_scopes_policy_idx ON policy_scopes (policy_id) WHERE status = 'active';
CREATE INDEX policy_scopes_status_idx ON policy_scopes (status);
CREATE INDEX policy_scopes_created_idx ON policy_scopes (created_at);

CREATE INDEX policy_violations_policy_idx ON policy_violations (policy_id, detected_at DESC);
CREATE INDEX policy_violations_rule_idx ON policy_violations (rule_id);
CREATE INDEX policy_violations_target_idx ON policy_violations (target_type, target_id);
CREATE INDEX policy_violations_severity_idx ON policy_violations (severity);
CREATE INDEX policy_violations_status_idx ON policy_violations (status, detected_at);
CREATE INDEX policy_violations_detected_idx ON policy_violations (detected_at);
CREATE INDEX policy_violations_open_idx ON policy_violations (target_id) WHERE status = 'active';
CREATE INDEX policy_violations_resolved_idx ON policy_violations (resolved_at) WHERE resolved_at IS NOT NULL;
CREATE INDEX policy_violations_resolver_idx ON policy_violations (resolved_by) WHERE resolved_by IS NOT NULL;
CREATE INDEX policy_violations_context_idx ON policy_violations USING gin (context);
